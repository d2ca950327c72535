"""Blur-O-Matic as a Django site: photographs go through the chain of works, and pages show how far they are."""

# As in Celery's guide for Django: shared tasks find the app, whoever comes first.
from example_project.website.celery import app as celery_app

__all__ = ("celery_app",)
