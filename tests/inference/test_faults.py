"""What managers are told of errors of the operating system: no folder of the machine."""

import errno

import pytest
from safetensors import safe_open

from inference.faults import shown, told


@pytest.fixture(autouse=True)
def data_dir(settings, tmp_path):
    settings.DATA_DIR = tmp_path / "var"
    return settings.DATA_DIR


def fault_of(act, *args):
    with pytest.raises(Exception) as caught:
        act(*args)
    return caught.value


def test_a_path_is_shown_from_data_dir_on_or_by_its_name(data_dir):
    assert shown(data_dir / "rounds/3/attempt-1") == "rounds/3/attempt-1"
    assert shown("/somewhere/else/config.json") == "config.json"


def test_an_error_says_what_is_wrong_and_with_which_file(data_dir, tmp_path):
    inside = fault_of(open, data_dir / "policies/a b/canary.json")
    assert told(inside) == "No such file or directory: policies/a b/canary.json"
    outside = fault_of(open, tmp_path / "model.safetensors")
    assert told(outside) == "No such file or directory: model.safetensors"
    assert told(OSError(errno.ENOSPC, "No space left on device")) == (
        "No space left on device"
    )
    assert told(ValueError("it is not an object")) == "it is not an object"


def test_errors_without_a_file_of_their_own_name_no_folder_either(tmp_path):
    fault = fault_of(safe_open, tmp_path / "gone.safetensors", "numpy")
    assert "gone.safetensors" in told(fault) and str(tmp_path) not in told(fault)
    page = "404 Client Error for url: https://huggingface.co/api/models/x"
    assert told(OSError(page)) == page
