"""Every address of the site; each app lists its own."""

from django.contrib import admin
from django.contrib.auth import views as auth
from django.urls import include, path, reverse_lazy
from django.views.i18n import set_language

from config import health

urlpatterns = [
    path("livez", health.livez, name="livez"),
    path("readyz", health.readyz, name="readyz"),
    path("login/", auth.LoginView.as_view(), name="login"),
    path("logout/", auth.LogoutView.as_view(), name="logout"),
    path(
        "password/",
        auth.PasswordChangeView.as_view(
            template_name="registration/password.html",
            success_url=reverse_lazy("home"),
            http_method_names=["get", "head", "post"],
        ),
        name="password",
    ),
    path("language/", set_language, name="set_language"),
    path("admin/", admin.site.urls),
    path("api/", include("config.api_urls")),
    path("", include("annotation.urls")),
    path("", include("training.urls")),
]

handler400 = "config.problems.bad_request"
handler500 = "config.problems.server_error"
