"""One real stack for all the tests of the loop; the starter model is built once."""

import shutil
import signal
from collections.abc import Callable, Iterator
from functools import cache

import pytest
from playwright.sync_api import Page

from tests.loop.stack import Stack
from tests.processes import free_port, is_alive
from training.client import Client

STARTER_STEPS = 60
"""Of 400: it writes sentences that differ, which is all that is asked of it here."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("loop")
    running = Stack(folder / "data", free_port(), free_port())
    try:
        running.build_starter(STARTER_STEPS)
        running.start()
        yield running
        left = running.descendants()
        running.stop(signal.SIGINT)
        assert not [pid for pid in left if is_alive(pid)], (
            "Ctrl-C left processes behind"
        )
    finally:
        if running.process and running.process.poll() is None:
            running.process.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def token_of(stack: Stack) -> Callable[[str], str]:
    """A person's API token, made once: each command of `manage.py` takes seconds."""
    return cache(lambda name: stack.manage("create_token", name).strip())


@pytest.fixture
def manager(stack: Stack, token_of: Callable[[str], str]) -> Iterator[Client]:
    with Client(stack.url, token_of("manager")) as client:
        yield client


@pytest.fixture
def annotator(stack: Stack, token_of: Callable[[str], str]) -> Iterator[Client]:
    with Client(stack.url, token_of("annotator")) as client:
        yield client


@pytest.fixture
def new_page(chromium) -> Iterator[Callable[[], Page]]:
    """Makes pages of people of their own, and fails on any violation of the CSP."""
    contexts, faults = [], []

    def make() -> Page:
        contexts.append(chromium.new_context())
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "console",
            lambda said: faults.append(said.text) if said.type == "error" else None,
        )
        return page

    yield make
    for context in contexts:
        context.close()
    assert not faults
