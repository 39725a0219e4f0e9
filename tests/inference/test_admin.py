"""The admin shows policies and servers; only a server's wanted state can be set."""

import pytest
from django.apps import apps
from django.contrib import admin
from django.urls import reverse

from inference.models import Deployment, Replica
from tests.factories import make_base, make_policy, make_user

pytestmark = pytest.mark.django_db
MODELS = [
    model._meta.model_name for model in apps.get_app_config("inference").get_models()
]


@pytest.fixture
def rows():
    policy = make_policy()
    replica = Replica.objects.create(url="http://127.0.0.1:8001", base=make_base())
    Deployment.objects.create(channel=policy.channel, policy=policy)
    return {"policy": policy, "channel": policy.channel, "replica": replica}


@pytest.fixture
def operator(client):
    client.force_login(make_user(is_staff=True, is_superuser=True))
    return client


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_a_list_that_can_be_searched(operator, rows, name):
    assert (
        operator.get(reverse(f"admin:inference_{name}_changelist")).status_code == 200
    )
    searched = operator.get(reverse(f"admin:inference_{name}_changelist"), {"q": "x"})
    assert searched.status_code == 200


@pytest.mark.parametrize("name", ["policy", "channel"])
def test_policies_and_channels_are_only_looked_at(operator, rows, name):
    url = reverse(f"admin:inference_{name}_change", args=[rows[name].pk])
    assert operator.get(url).status_code == 200
    assert operator.post(url, {"name": "x"}).status_code == 403
    delete = reverse(f"admin:inference_{name}_delete", args=[rows[name].pk])
    assert operator.post(delete, {"post": "yes"}).status_code == 403
    assert operator.get(reverse(f"admin:inference_{name}_add")).status_code == 403


def test_a_servers_wanted_state_can_be_set_and_nothing_else(operator, rows):
    url = reverse("admin:inference_replica_change", args=[rows["replica"].pk])
    sent = {"wanted": "stopped", "wanted_reason": "maintenance", "url": "http://evil/"}
    assert operator.post(url, sent).status_code == 302
    replica = Replica.objects.get()
    assert (replica.wanted, replica.wanted_reason) == ("stopped", "maintenance")
    assert replica.url == "http://127.0.0.1:8001"


def test_every_model_is_registered():
    for model in apps.get_app_config("inference").get_models():
        assert admin.site.is_registered(model), model
