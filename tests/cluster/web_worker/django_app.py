import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="test", DEBUG=False)
django.setup()


def index(request):
    return HttpResponse(f"django {request.body.decode()}")


urlpatterns = [path("", index)]
asgi = get_asgi_application()
wsgi = get_wsgi_application()
