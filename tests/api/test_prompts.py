from annotation.models import Prompt
from tests.api.helpers import V1, assert_problem

URL = f"{V1}/projects/demo/prompts"
JSONL = '{"prompt": "Why is the sky blue?"}\n{"messages": [{"role": "user", "content": "天为什么是蓝的？"}]}\n'


def test_jsonl_is_imported_and_counted(mona):
    response = mona.post(URL, JSONL, content_type="application/jsonl")
    assert response.status_code == 200, response.content
    assert response.json() == {"accepted": 2, "duplicates": 0, "rejected": []}
    again = mona.post(URL, JSONL, content_type="application/x-ndjson")
    assert again.json() == {"accepted": 0, "duplicates": 2, "rejected": []}


def test_csv_with_a_byte_order_mark_is_imported(mona):
    body = '\ufeffprompt\r\n"Two,\nlines"\r\n天空\r\n'.encode()
    response = mona.post(URL, body, content_type="text/csv; charset=utf-8")
    assert response.json() == {"accepted": 2, "duplicates": 0, "rejected": []}
    assert Prompt.objects.filter(messages__0__content="Two,\nlines").exists()


def test_any_other_type_is_told_by_its_first_line(mona):
    for kind in (
        "text/plain",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
    ):
        Prompt.objects.all().delete()
        assert mona.post(URL, JSONL, content_type=kind).json()["accepted"] == 2, kind


def test_bad_lines_are_reported_with_their_number_and_good_ones_kept(mona):
    body = '{"prompt": "Good"}\n{"prompt": \n{"text": "no prompt"}\n{"prompt": "Also good"}\n'
    report = mona.post(URL, body, content_type="application/jsonl").json()
    assert report["accepted"] == 2
    assert [bad["line"] for bad in report["rejected"]] == [2, 3]
    assert all(bad["reason"] for bad in report["rejected"])


def test_bytes_that_are_no_text_are_reported_not_a_500(mona):
    report = mona.post(
        URL, b'{"prompt": "\xff\xfe"}\n', content_type="application/jsonl"
    )
    assert report.status_code in (200, 422), report.content


def test_an_empty_body_imports_nothing(mona):
    response = mona.post(URL, b"", content_type="application/jsonl")
    assert response.status_code in (200, 422), response.content
    assert not Prompt.objects.exists()


def test_a_form_upload_is_told_how_to_do_it(mona):
    response = mona.post(URL, {"file": "x"}, format="multipart")
    assert_problem(response, 415)


def test_what_is_too_large_is_413_before_it_is_read(mona, settings):
    settings.UPLOAD_MAX_BYTES = 10
    assert_problem(mona.post(URL, JSONL, content_type="application/jsonl"), 413)
    assert not Prompt.objects.exists()


def test_a_body_in_pieces_is_411_rather_than_taken_for_empty(mona):
    headers = {"Transfer-Encoding": "chunked"}
    response = mona.post(URL, b"", content_type="text/csv", headers=headers)
    assert_problem(response, 411)


def test_only_managers_import(alice, rita, charlie, nobody):
    for client, status in ((alice, 403), (rita, 403), (charlie, 404), (nobody, 401)):
        assert_problem(
            client.post(URL, JSONL, content_type="application/jsonl"), status
        )
    assert not Prompt.objects.exists()
