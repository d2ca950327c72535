"""A small Django project whose views enqueue durable works."""

from tests.django_site.celery import app as celery_app

__all__ = ["celery_app"]
