import json, threading
from playwright.sync_api import expect
from annotation import import_jobs
from annotation.models import *
from tests.browser.test_every_page import manager, unfold
from tests.browser.conftest import WIDE, NARROW
OUT="/tmp/tb5/shots-files/"
def shots(page,name):
    for w,size in (("wide",WIDE),("narrow",NARROW)):
        for scheme in ("light","dark"):
            if scheme=="dark" and w=="wide" and name not in ("preview","job"): continue
            page.set_viewport_size({"width":size[0],"height":size[1]})
            page.emulate_media(color_scheme=scheme)
            page.screenshot(path=f"{OUT}{name}-{w}-{scheme}.png", full_page=True)
    page.set_viewport_size({"width":WIDE[0],"height":WIDE[1]}); page.emulate_media(color_scheme="light")
def test_shots(browse, manager):
    browse.expected += ["404","422"]
    from training.models import TrainingRound
    p=Project.objects.get(slug="kitchen")
    TrainingRound.objects.create(project=p, number=1, start=p.base, reference="base", data="all")
    page=browse(manager,"/projects/kitchen/import/")
    shots(page,"import-empty")
    rows="\n".join([json.dumps({"question":"How do I boil an egg?","good":"Six minutes in **boiling** water."*4,"bad":"Fry it."}), json.dumps({"question":"怎样煮鸡蛋？","good":"水开后煮六分钟。","bad":"不知道。"}), "{oops"])
    page.get_by_label("Or paste it here").fill(rows)
    page.get_by_role("button", name="Look at it").click()
    shots(page,"preview-unmapped")
    page.locator("input[value=pairs]").check()
    unfold(page)
    page.get_by_label("Prompt", exact=True).select_option("question")
    page.get_by_label("Chosen").select_option("good")
    page.get_by_label("Rejected").select_option("bad")
    page.get_by_role("button", name="Look again").click()
    shots(page,"preview")
    page.get_by_role("button", name="Import the pairs").click()
    shots(page,"queued")
    job=ImportJob.objects.get()
    ImportJob.objects.filter(pk=job.pk).update(share=0.43, items_done=43000, accepted=42000, rejected=0)
    expect(page.get_by_text("43 of 100")).to_be_visible(); 
    shots(page,"running")
    ImportJob.objects.filter(pk=job.pk).update(share=0, items_done=0, accepted=0)
    import_jobs.run(job.pk)
    expect(page.get_by_role("heading", name="Bad lines")).to_be_visible()
    shots(page,"job")
    page.goto(browse.url+"/projects/kitchen/import/"); shots(page,"import")
    page.goto(browse.url+"/projects/kitchen/export/?which=all&rule=cut_off"); shots(page,"export")
    page.goto(browse.url+"/projects/kitchen/prompts/"); shots(page,"prompts")
