"""A report in a real browser, headless: nothing fetched, nothing overflows, everything shows."""

import pytest
from browsers import headless_browser
from made_up_results import FAILURE, TASKS, made_up

from trudi.train.report.denoising import Chains, Picture, PicturedState
from trudi.train.report.published import read_published
from trudi.train.report.report import Report
from trudi.train.report.sources import gather

PHONE, DESKTOP = 390, 1400
FAILED = (TASKS[0], "trudi", 1)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with headless_browser(tmp_path_factory.mktemp("fonts")) as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Of three tasks, three variants with long names, two seeds; one run failed, one is unfinished."""
    folder = tmp_path_factory.mktemp("report")
    variants = ("trudi", "reppo, as long as trudi", "trudi, no trust region")
    made_up(TASKS[:3], variants, 2, {FAILED}, {(TASKS[1], "trudi", 0)}).write(folder / "results.json")
    chains = Chains([[[1.0, -1.0]], [[0.0, 0.5]]], [[0.0, 0.46], [0.1, 0.4]])
    picture = Picture("a-run", TASKS[0], "trudi", 1, (PicturedState(0, "the start", (0, 1), {"ode": chains}),))
    return Report(gather([folder / "results.json"]), read_published(), [picture]).write(folder)[0]


@pytest.fixture
def opened(browser, report):
    """Opens the report at a width; says what was asked for and complained of."""
    contexts = []

    def open_at(width, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page, requests, complaints = context.new_page(), [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(report.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        return page, requests, complaints

    yield open_at
    for context in contexts:
        context.close()


@pytest.mark.parametrize(("width", "scheme"), [(PHONE, "dark"), (DESKTOP, "light")])
def test_it_opens_without_a_complaint_or_a_request_and_fits(opened, report, width, scheme):
    page, requests, complaints = opened(width, scheme)
    assert complaints == []
    assert requests == [report.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    boxes = page.evaluate(
        "[...document.querySelectorAll('figure svg')].map(each => {"
        " const { left, right, width, height } = each.getBoundingClientRect(); return [left, right, width, height]; })"
    )
    assert len(boxes) == 2 * 3 + 4 + 2 + 3 * 10 + 3  # curves, aggregates, comparisons, diagnostics, denoising
    assert all(left >= 0 and right <= width and wide > 250 and high > 100 for left, right, wide, high in boxes)
    words = page.locator("figure svg text")
    assert words.count() > 500
    assert words.first.bounding_box()["height"] > 6.0  # it can be read


def test_words_stay_inside_their_figure(opened):
    page, _, _ = opened(DESKTOP)
    outside = page.evaluate(
        "[...document.querySelectorAll('figure svg')].flatMap(svg => { const box = svg.getBoundingClientRect();"
        " return [...svg.querySelectorAll('text')].filter(each => { const { left, right } = each.getBoundingClientRect();"
        " return left < box.left - 1 || right > box.right + 1; }).map(each => each.textContent); })"
    )
    assert outside == []


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_a_failed_run_is_seen_with_its_reason(opened, width):
    page, _, _ = opened(width)
    row = page.locator(".bad tbody tr").first
    assert row.is_visible()
    assert "/".join(map(str, FAILED)) in row.inner_text()
    reason = row.locator("td").nth(1)
    assert reason.inner_text() == FAILURE  # as text: its <b> is no element
    box = reason.bounding_box()
    assert 0 < box["x"] < width - 100  # it begins on the screen, before anybody scrolls


def test_a_click_sorts_a_table_by_number_and_by_name(opened):
    page, _, complaints = opened(DESKTOP)
    table = page.locator("#section-all-runs table")

    def column(index):
        return table.locator(f"tbody tr td:nth-child({index})").all_inner_texts()

    names = column(1)
    head = table.get_by_role("button", name="return")
    head.click()
    known = [float(text.replace(",", "")) for text in column(6) if text != "\u2013"]
    assert known == sorted(known) and len(set(known)) > 5
    assert table.locator("th").nth(5).get_attribute("aria-sort") == "ascending"
    head.click()
    falling = [float(text.replace(",", "")) for text in column(6) if text != "\u2013"]
    assert falling == known[::-1]
    table.get_by_role("button", name="run").click()
    assert column(1) == sorted(names) and len(column(1)) == 18
    assert table.locator("[aria-sort]").count() == 1
    assert complaints == []


def test_what_is_closed_opens_from_the_contents(opened):
    page, _, _ = opened(PHONE)
    section = page.locator("#section-final-scores")
    section.locator("summary").first.click()
    assert not section.locator("table").is_visible()
    page.get_by_role("link", name="Final scores").click()
    assert section.locator("table").is_visible()
