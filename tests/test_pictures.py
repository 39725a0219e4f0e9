"""`make pictures` knows every page of the site."""

from django.urls import Resolver404, resolve

from tests.pictures import PAGES
from tests.test_access import PAGES as ADDRESSES

NO_PICTURE = {
    "livez": "for machines",
    "readyz": "for machines",
    "export_pairs": "a file",
    "export_file": "a file",
    "export_round": "a file",
    "import_faults": "a file",
    "import_status": "a part of the page of the import",
    "last_ten": "a part of the page of comparing",
    "round_status": "a part of the page of the round",
    "differences": "without JavaScript; its address holds a key made anew each time",
}


def test_every_page_has_its_picture():
    shown = set()
    for picture in PAGES:
        try:
            shown.add(resolve(picture.path).url_name)
        except Resolver404:
            assert picture.name == "not-found"
    pages = {name for name, methods in ADDRESSES.items() if "GET" in methods}
    missing = pages - shown - set(NO_PICTURE)
    assert not missing, f"add them to PAGES in tests/pictures.py: {missing}"


def test_no_two_pictures_share_a_file():
    names = [picture.name for picture in PAGES]
    assert len(names) == len(set(names))
