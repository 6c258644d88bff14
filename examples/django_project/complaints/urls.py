"""The pages of the app."""

from __future__ import annotations

from django.urls import path

from examples.django_project.complaints import views

urlpatterns = [
    path("", views.complaints, name="complaints"),
    path("<uuid:key>/", views.complaint, name="complaint"),
    path("<uuid:key>/answer/", views.answer, name="answer"),
    path("<uuid:key>/cancel/", views.cancel, name="cancel"),
    path("<uuid:key>/again/", views.again, name="again"),
]
