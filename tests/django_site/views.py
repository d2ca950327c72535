"""Views; ATOMIC_REQUESTS is on."""

from __future__ import annotations

from django.db import transaction
from django.http import HttpRequest, JsonResponse

from celery_workmanager import OneTimeWorkRequest
from tests.django_site.celery import work_manager
from tests.django_site.models import Order
from tests.django_site.shop import chain
from tests.django_site.tasks import bake


def order(request: HttpRequest, title: str) -> JsonResponse:
    made = Order.objects.create(title=title)
    operation = chain(work_manager, made).enqueue()
    if title == "burnt":
        raise RuntimeError("everything is taken back")
    seen = len(work_manager.get_work_infos_for_unique_work(f"order-{made.pk}"))
    return JsonResponse({"ids": operation.ids, "seen": seen})


@transaction.non_atomic_requests
async def order_async(request: HttpRequest, title: str) -> JsonResponse:
    made = await Order.objects.acreate(title=title)
    operation = await work_manager.aenqueue(OneTimeWorkRequest(bake, {"order": made.pk}, tags={"order"}))
    info = await work_manager.aget_work_info_by_id(operation.ids[0])
    return JsonResponse({"ids": operation.ids, "seen": info is not None})
