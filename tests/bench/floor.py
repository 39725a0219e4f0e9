"""What judging could reach at best: our own stack around one SELECT and one INSERT.

`gunicorn tests.bench.floor:application` is the application as it is (settings, middleware,
sign-in by token, REST framework) with one call more, which does what the bare Django view
does and answers as much as a judgment with its next comparison. Its rate over the bare view's is
what is left before a lease, a quota, a decision or the next pair has been looked at.
`python -m tests.bench.floor` makes its table.
"""

from config.wsgi import application  # noqa: I001  first: it sets Django up

from django.conf import settings
from django.db import connection, models
from django.urls import path
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation.models import Prompt
from config import urls

ANSWER = "An answer that is long enough to be judged fairly. " * 4


class Vote(models.Model):
    prompt = models.ForeignKey(Prompt, models.CASCADE, related_name="+")
    verdict = models.CharField(max_length=10)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        app_label = "bench"

    def __str__(self) -> str:
        return self.verdict


class VoteForm(serializers.Serializer):
    verdict = serializers.ChoiceField(["first", "second", "tie", "both_bad"])


class VoteView(APIView):
    def post(self, request: Request, pk: int) -> Response:
        form = VoteForm(data=request.data)
        form.is_valid(raise_exception=True)
        prompt = Prompt.objects.get(pk=pk)
        vote = Vote.objects.create(prompt=prompt, **form.validated_data)
        shown = {"text": ANSWER, "html": f"<p>{ANSWER}</p>"}
        following = {"prompt": prompt.messages, "first": shown, "second": shown}
        answer = {
            "judgment": {"id": vote.pk, "verdict": vote.verdict, "at": vote.created_at},
            "next": following,
        }
        return Response(answer, status=201)


urlpatterns = [path("floor/<int:pk>", VoteView.as_view()), *urls.urlpatterns]
settings.ROOT_URLCONF = __name__
assert application


if __name__ == "__main__":
    with connection.schema_editor() as editor:
        editor.create_model(Vote)
