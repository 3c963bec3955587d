"""The smallest Django project, as WSGI."""

import os

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

settings.configure(DEBUG=False, ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="of no use", USE_TZ=True)
django.setup()


def pid(_request):
    return HttpResponse(str(os.getpid()), content_type="text/plain")


urlpatterns = [path("pid", pid)]
application = get_wsgi_application()
