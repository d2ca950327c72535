"""The store in a Django project's own database: add ``"celery_workmanager.django"`` to INSTALLED_APPS."""
