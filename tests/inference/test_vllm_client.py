"""The client against a real HTTP server that misbehaves on demand."""

import pytest

from inference.errors import InferenceError
from inference.vllm import VLLMClient
from tests.inference.stub_server import break_off, chat_answer, send

CHAT = [{"role": "user", "content": "hi"}]
SAMPLING = {"temperature": 0.7, "max_tokens": 5}
BUSY = {"error": {"message": "The engine is currently busy"}}


@pytest.fixture
def client(stub):
    client = VLLMClient(stub.url, timeout=5.0, attempts=3, backoff=0.0)
    yield client
    client.close()


def test_a_chat_asks_for_ids_and_logprobs_and_returns_them(stub, client):
    stub.answers = [(200, chat_answer("yes", "no"))]
    answer = client.chat("policy-0001-abc", CHAT, 2, 7, SAMPLING)
    _method, path, body, _headers = stub.requests[0]
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "policy-0001-abc",
        "messages": CHAT,
        "n": 2,
        "seed": 7,
        "temperature": 0.7,
        "max_tokens": 5,
        "logprobs": True,
        "top_logprobs": 0,
        "return_token_ids": True,
    }
    assert answer.prompt_token_ids == [1, 2, 3]
    assert [choice.text for choice in answer.choices] == ["yes", "no"]
    assert answer.choices[1].token_ids == [11, 2]
    assert answer.choices[1].logprobs == [-0.5, -0.25]
    assert answer.choices[1].finish_reason == "stop"


def test_without_a_seed_none_is_sent(stub, client):
    stub.answers = [(200, chat_answer("yes"))]
    client.chat("base", CHAT, 1, None, SAMPLING)
    assert "seed" not in stub.requests[0][2]


def test_choices_are_put_in_the_order_of_their_index(stub, client):
    shuffled = chat_answer("first", "second")
    shuffled["choices"].reverse()
    stub.answers = [(200, shuffled)]
    answer = client.chat("base", CHAT, 2, 1, SAMPLING)
    assert [choice.text for choice in answer.choices] == ["first", "second"]


def test_what_no_database_keeps_is_replaced_in_an_answer_s_text(stub, client):
    """PostgreSQL refuses NUL, and with it all that was sampled beside it was lost."""
    stub.answers = [(200, chat_answer("a\0b", "c\ud83d"))]
    answer = client.chat("base", CHAT, 2, 1, SAMPLING)
    assert [choice.text for choice in answer.choices] == ["a\ufffdb", "c\ufffd"]
    assert answer.choices[0].token_ids == [10, 2]


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(stub, client, status):
    stub.answers = [(status, BUSY), (200, chat_answer("yes"))]
    assert client.chat("base", CHAT, 1, 1, SAMPLING).choices[0].text == "yes"
    assert len(stub.requests) == 2


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_stays_busy_is_an_error_that_may_pass(stub, client, status):
    """Of a permanent one the prompt would rest for ten minutes."""
    stub.answers = [(status, BUSY)]
    with pytest.raises(InferenceError, match="more requests") as refused:
        client.chat("base", CHAT, 1, 1, SAMPLING)
    assert not refused.value.permanent
    assert len(stub.requests) == 3


def test_a_server_that_is_shutting_down_is_asked_again(stub, client):
    draining = {"error": {"message": "cannot schedule new futures after shutdown"}}
    stub.answers = [(500, draining), (200, chat_answer("yes"))]
    assert client.chat("base", CHAT, 1, 1, SAMPLING).choices[0].text == "yes"


@pytest.mark.parametrize("reason", ["abort", "error", None])
def test_an_answer_that_was_broken_off_is_refused_though_the_status_is_200(
    stub, client, reason
):
    stub.answers = [(200, chat_answer("yes", "hal", reasons=["stop", reason]))]
    with pytest.raises(InferenceError, match="ended an answer early"):
        client.chat("base", CHAT, 2, 1, SAMPLING)


def test_a_cut_off_answer_is_kept_and_says_so(stub, client):
    stub.answers = [(200, chat_answer("yes and", reasons=["length"]))]
    (choice,) = client.chat("base", CHAT, 1, 1, SAMPLING).choices
    assert choice.finish_reason == "length"


def test_fewer_answers_than_asked_for_are_refused(stub, client):
    stub.answers = [(200, chat_answer("yes"))]
    with pytest.raises(InferenceError, match="1 answers instead of 2"):
        client.chat("base", CHAT, 2, 1, SAMPLING)


def test_more_ids_than_logprobs_are_refused(stub, client):
    answer = chat_answer("yes")
    answer["choices"][0]["token_ids"].append(9)
    stub.answers = [(200, answer)]
    with pytest.raises(InferenceError, match="2 log-probs for 3 tokens"):
        client.chat("base", CHAT, 1, 1, SAMPLING)


@pytest.mark.parametrize("body", ["", "not json", "[]", "{}", '{"choices": 3}'])
def test_an_answer_of_another_shape_is_a_sentence(stub, client, body):
    stub.answers = [(200, body)]
    with pytest.raises(InferenceError, match="not the sampled answers"):
        client.chat("base", CHAT, 1, 1, SAMPLING)


def test_a_broken_connection_is_tried_again(stub, client):
    stub.answers = [break_off, (200, chat_answer("yes"))]
    assert client.chat("base", CHAT, 1, 1, SAMPLING).choices[0].text == "yes"


def test_half_an_answer_is_tried_again(stub, client):
    def half(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"choices"')
        handler.close_connection = True

    stub.answers = [half, (200, chat_answer("yes"))]
    assert client.chat("base", CHAT, 1, 1, SAMPLING).choices[0].text == "yes"


def test_an_answer_that_a_proxy_compressed_wrongly_is_tried_again(stub, client):
    def garbled(handler):
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.send_header("Content-Length", "2")
        handler.end_headers()
        handler.wfile.write(b"{}")

    stub.answers = [garbled, (200, chat_answer("yes"))]
    assert client.chat("base", CHAT, 1, 1, SAMPLING).choices[0].text == "yes"


def test_a_broken_connection_while_loading_is_not_tried_again(stub, client):
    """The server may have acted already."""
    stub.answers = [break_off]
    with pytest.raises(InferenceError, match="broke off"):
        client.load_adapter("policy-0001-abc", "/policies/policy-0001-abc")
    assert len(stub.requests) == 1


def test_a_server_that_hangs_is_given_up_after_the_time_out(stub):
    client = VLLMClient(stub.url, timeout=0.2, attempts=3, backoff=0.0)
    stub.answers = [lambda handler: stub.released.wait(10)]
    with pytest.raises(InferenceError, match="did not answer within 0.2 seconds"):
        client.chat("base", CHAT, 1, 1, SAMPLING)
    assert len(stub.requests) == 1


def test_no_server_at_all_is_a_sentence(stub):
    stub.close()
    client = VLLMClient(stub.url, attempts=2, backoff=0.0)
    with pytest.raises(InferenceError, match="cannot be reached") as refused:
        client.models()
    assert not refused.value.permanent
    assert not client.is_healthy()


@pytest.mark.parametrize(
    ("status", "permanent"), [(400, True), (404, False), (422, True), (500, False)]
)
def test_a_refusal_carries_vllms_reason(stub, client, status, permanent):
    stub.answers = [(status, {"error": {"message": "max_tokens is too large"}})]
    with pytest.raises(InferenceError, match="max_tokens is too large") as refused:
        client.chat("base", CHAT, 1, 1, SAMPLING)
    assert refused.value.permanent is permanent
    assert len(stub.requests) == 1


def test_the_key_is_sent_and_its_refusal_understood(stub):
    client = VLLMClient(stub.url, api_key="secret", attempts=1)
    stub.answers = [(401, {"error": "Unauthorized"})]
    with pytest.raises(InferenceError, match="VLLM_API_KEY"):
        client.models()
    assert stub.requests[0][3]["Authorization"] == "Bearer secret"


def test_an_endless_answer_is_not_read_to_its_end(stub, client, monkeypatch):
    monkeypatch.setattr("inference.vllm.LONGEST_ANSWER", 1000)
    stub.answers = [(200, "x" * 5000)]
    with pytest.raises(InferenceError, match="longer than"):
        client.models()


def test_a_redirect_is_not_followed(stub, client):
    def elsewhere(handler):
        handler.send_response(302)
        handler.send_header("Location", "/secret")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    stub.answers = [elsewhere]
    with pytest.raises(InferenceError):
        client.models()
    assert [path for _m, path, _b, _h in stub.requests] == ["/v1/models"]


@pytest.mark.parametrize(
    "name", ["../outside", "/etc", "Policy-1", "a/b", "", ".hidden", "x" * 65, "a\n"]
)
def test_no_name_that_could_be_a_path_is_sent(stub, client, name):
    for ask in (
        lambda: client.chat(name, CHAT, 1, 1, SAMPLING),
        lambda: client.prompt_logprobs(name, [1, 2]),
        lambda: client.load_adapter(name, "/policies/x"),
        lambda: client.unload_adapter(name),
    ):
        with pytest.raises(InferenceError, match="not the name of a policy") as refused:
            ask()
        assert refused.value.permanent
    assert stub.requests == []


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "127.0.0.1:8001", "http://169.254.169.254/", "http://", ""],
)
def test_only_http_to_a_host_is_a_server(url):
    with pytest.raises(InferenceError, match="cannot be a vLLM server"):
        VLLMClient(url)


def test_logprobs_of_a_prompt_are_those_of_its_tokens(stub, client):
    """Position 0 has none; the others are keyed by the token's id."""
    stub.answers = [
        (
            200,
            {
                "choices": [
                    {
                        "prompt_logprobs": [
                            None,
                            {"5": {"logprob": -1.5}, "9": {"logprob": -0.1}},
                            {"6": {"logprob": -2.5}},
                        ]
                    }
                ]
            },
        )
    ]
    assert client.prompt_logprobs("base", [4, 5, 6]) == [-1.5, -2.5]
    assert stub.requests[0][2]["prompt"] == [4, 5, 6]


def test_logprobs_that_are_not_finite_are_refused(stub, client):
    entry = {"choices": [{"prompt_logprobs": [None, {"5": {"logprob": float("nan")}}]}]}
    stub.answers = [(200, entry)]
    with pytest.raises(InferenceError, match="nan"):
        client.prompt_logprobs("base", [4, 5])


def test_an_open_chat_is_tokenised_with_the_opening_of_an_answer(stub, client):
    stub.answers = [(200, {"tokens": [1, 2, 3]})]
    assert client.tokenize(CHAT) == [1, 2, 3]
    client.tokenize([*CHAT, {"role": "assistant", "content": "hello"}])
    asked = [body["add_generation_prompt"] for _m, _p, body, _h in stub.requests]
    assert asked == [True, False]


def test_loading_what_is_loaded_from_the_same_folder_changes_nothing(stub, client):
    listed = {"data": [{"id": "policy-1", "root": "/policies/policy-1"}]}
    twice = {"error": {"message": "The lora adapter has already been loaded."}}
    stub.answers = [(400, twice), (200, listed)]
    client.load_adapter("policy-1", "/policies/policy-1")


def test_a_name_that_is_loaded_from_elsewhere_is_an_error(stub, client):
    listed = {"data": [{"id": "policy-1", "root": "/elsewhere"}]}
    twice = {"error": {"message": "The lora adapter has already been loaded."}}
    stub.answers = [(400, twice), (200, listed)]
    with pytest.raises(InferenceError, match="another folder"):
        client.load_adapter("policy-1", "/policies/policy-1")


def test_unloading_what_is_not_loaded_changes_nothing(stub, client):
    stub.answers = [(404, {"error": {"message": "not found"}}), (200, {"data": []})]
    client.unload_adapter("policy-1")


def test_metrics_are_summed_over_their_labels(stub, client):
    lines = [
        "# HELP vllm:num_requests_running x",
        'vllm:num_requests_running{engine="0"} 2.0',
        'vllm:num_requests_running{engine="1"} 3.0',
        'vllm:e2e_request_latency_seconds_bucket{le="0.3"} 9.0',
        "python_gc_objects_collected_total 5.0",
        "vllm:num_preemptions_total 0.0",
    ]
    stub.answers = [lambda handler: send(handler, 200, "\n".join(lines))]
    assert client.metrics() == {"num_requests_running": 5.0, "num_preemptions_total": 0}


def test_health_is_the_status_of_health(stub, client):
    stub.answers = [(200, ""), (503, "")]
    assert client.is_healthy()
    assert not client.is_healthy()
