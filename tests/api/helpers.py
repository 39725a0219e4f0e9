"""What the API's tests say often."""

V1 = "/api/v1"


def assert_problem(response, status, code=None, field=None):
    """An RFC 9457 document of this status; returns it."""
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["title"] and problem["detail"] and problem["type"]
    if code:
        assert problem["code"] == code
    if field:
        assert field in [error["field"] for error in problem["errors"]]
    return problem
