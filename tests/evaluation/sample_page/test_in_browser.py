"""The page in a real browser: it makes no requests, logs no errors, and sorts, filters and marks correctly."""

import json
import random
import re
from pathlib import Path

import pytest
from rouge_score import rouge_scorer

from finetune_scaling.evaluation.sample_page.page import write_page
from finetune_scaling.evaluation.sample_page.samples import RunSamples, Sample
from finetune_scaling.evaluation.sample_page.sentence_scores import SentenceScores, sentence_scores

SHOWN_INDICES = "[...document.querySelectorAll('#samples tbody th')].map(e => Number(e.lastChild.textContent))"
STATUS = "document.getElementById('status').textContent"
WORDS = ["der", "die", "Paket", "enthält", "Bibliothek", "und", "天", "气", "很", "好", "Zürich’s", "1,5", "e-mail"]


def make_examples(count: int) -> list[Sample]:
    """Return random texts; of the second run every seventh hypothesis is None, every ninth is empty."""
    draw = random.Random(0)
    text = lambda most: " ".join(draw.choices(WORDS, k=draw.randint(1, most)))  # noqa: E731
    found = []
    for index in range(count):
        reference = text(12)
        other = None if index % 7 == 6 else "" if index % 9 == 8 else text(12)
        losses = (draw.random(), None if index % 5 == 4 else draw.random())
        found.append(Sample(index, f"source {index} {text(6)}", reference, "de", (text(12), other), losses))
    return found


def build_page(folder: Path, examples: list[Sample], scores: SentenceScores | None = None) -> Path:
    names = ("full", "lora")[: len(examples[0].hypotheses)]
    runs = [RunSamples(name, None, folder / f"{name}.jsonl", []) for name in names]
    scores = scores or sentence_scores("chrf", examples)
    write_page(folder / "page.html", "test", runs, examples, scores)
    return folder / "page.html"


@pytest.fixture(scope="module")
def examples() -> list[Sample]:
    return make_examples(70)


@pytest.fixture(scope="module")
def address(tmp_path_factory, examples) -> str:
    return build_page(tmp_path_factory.mktemp("page"), examples).as_uri()


@pytest.fixture(scope="module")
def scores(address) -> list[list[float | None]]:
    """Return scores [example][run], rounded as on the page."""
    record = json.loads(Path(address.removeprefix("file://")).with_suffix(".json").read_text())
    return [[None if s is None else round(s, 2) for s in example["scores"]] for example in record["examples"]]


@pytest.fixture
def page(browser, address):
    """Load the page; afterwards check that it made no requests and logged no errors."""
    browser.reload(address)
    yield browser
    assert set(browser.requests) <= {address, "about:blank"}
    assert browser.console_errors == []


def all_rows(page, count: int) -> list[int]:
    """Return the indices of all rows, paging with the button."""
    found = page.evaluate(SHOWN_INDICES)
    while len(found) < count:
        page.click("#next")
        found += page.evaluate(SHOWN_INDICES)
    return found


def order(keys: list[float | None], sign: int = 1) -> list[int]:
    present = [i for i, key in enumerate(keys) if key is not None]
    absent = [i for i, key in enumerate(keys) if key is None]
    return sorted(present, key=lambda i: sign * keys[i]) + absent


def choose(page, name: str, value: str) -> None:
    """Select an option and dispatch its input event, as a user does."""
    page.evaluate(
        f"(() => {{ const f = FORM.elements.namedItem('{name}'); f.value = '{value}';"
        " f.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def type_into(page, name: str, text: str) -> None:
    page.click(f'[name="{name}"]')
    page.evaluate(f"document.querySelector('[name=\"{name}\"]').select()")
    page.type(text)


def test_headers_sort_by_mouse_and_set_aria_sort(page, scores):
    page.click('th[data-sort="score1"] button')
    assert all_rows(page, len(scores)) == order([row[1] for row in scores])
    sort = "document.querySelector('th[data-sort=\"score1\"]').getAttribute('aria-sort')"
    assert page.evaluate(sort) == "ascending"
    page.click('th[data-sort="score1"] button')
    assert page.evaluate(sort) == "descending"
    assert all_rows(page, len(scores)) == order([row[1] for row in scores], -1)
    assert page.evaluate("document.querySelectorAll('[aria-sort]').length") == 1
    assert "by chrF: lora, highest first" in page.evaluate(STATUS)


def test_headers_sort_by_keyboard(page, scores):
    place = "document.activeElement.closest('th')?.dataset.sort"
    for _ in range(40):
        page.press("Tab")
        if page.evaluate(place) == "difference":
            break
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press("Enter")
    gaps = [None if None in row else row[0] - row[1] for row in scores]
    assert all_rows(page, len(scores)) == order(gaps)


def test_the_difference_is_of_the_selected_runs(page, scores):
    choose(page, "left", "1")
    choose(page, "right", "0")
    choose(page, "sort", "difference")
    page.wait(f"{STATUS}.includes('difference')")
    gaps = [None if None in row else row[1] - row[0] for row in scores]
    assert all_rows(page, len(scores)) == order(gaps)
    assert "lora minus full" in page.evaluate("document.getElementById('samples-caption').textContent")


def test_text_and_length_filter(page, examples):
    type_into(page, "text", "ZÜRICH’S")
    page.wait(f"{STATUS}.includes('unfiltered')")
    texts = [(e.source, e.reference, *(h or "" for h in e.hypotheses)) for e in examples]
    found = [i for i, parts in enumerate(texts) if any("zürich’s" in part.lower() for part in parts)]
    assert 0 < len(found) < len(examples)
    assert all_rows(page, len(found)) == found

    choose(page, "where", "reference")
    choose(page, "of", "reference")
    type_into(page, "least", "6")
    longer = [
        i
        for i, e in enumerate(examples)
        if "zürich’s" in e.reference.lower() and len(re.findall(r"[天气很好]|[a-zäöü]+|\d+", e.reference.lower())) >= 6
    ]
    page.wait(f"{STATUS}.includes('of {len(longer)} ')")
    assert all_rows(page, len(longer)) == longer

    type_into(page, "text", "no such text")
    page.wait(f"{STATUS} === 'no rows match the filter'")
    page.click('[type="reset"]')
    page.wait(f"{STATUS}.includes('of {len(examples)},')")


def test_the_means_follow_the_filter_for_differing_hypotheses(page, examples, scores):
    page.click('[name="differ"]')
    found = [i for i, e in enumerate(examples) if e.hypotheses[0] != e.hypotheses[1]]
    page.wait(f"{STATUS}.includes('of {len(found)}')")
    shown = page.evaluate("document.querySelector('#means tbody td').textContent")
    assert float(shown) == pytest.approx(sum(scores[i][0] for i in found) / len(found), abs=0.006)


def test_the_url_fragment_stores_the_view(page, address, examples):
    page.click('th[data-sort="score0"] button')
    page.click("#next")
    there, rows = page.evaluate("location.href"), page.evaluate(SHOWN_INDICES)
    page.open(there)
    page.requests[:] = [address]
    assert page.evaluate(SHOWN_INDICES) == rows


def test_marks_follow_a_longest_common_subsequence(page):
    draw = random.Random(1)
    for _ in range(60):
        left, right = ([draw.choice("abcde") for _ in range(draw.randint(0, 14))] for _ in range(2))
        steps = page.evaluate(f"align({json.dumps(left)}, {json.dumps(right)})")
        same = [(step[1], step[2]) for step in steps if step[0] == "same"]
        assert all(left[i] == right[j] for i, j in same)
        assert same == sorted(same)
        assert len(same) == rouge_scorer._lcs_table(left, right)[-1][-1]
        assert sorted(step[1] for step in steps if step[0] != "missing") == list(range(len(left)))
        assert len(steps) - len(left) == len(right) - len(same)


@pytest.mark.parametrize(
    ("hypothesis", "reference", "pieces"),
    [
        ("a b c", "a x c", [["same", "a "], ["extra", "b "], ["missing", "x "], ["same", "c"]]),
        ("今天好", "今天很好", [["same", "今天"], ["missing", "很"], ["same", "好"]]),
        (" a,  b\n", "a, b", [["same", " a,  b\n"]]),
        ("", "a b", [["missing", "a b"]]),
        ("👩‍👩‍👧 x", "👩‍👩‍👧 y", [["same", "👩‍👩‍👧 "], ["extra", "x"], ["missing", "y"]]),
    ],
)
def test_differences_by_words_and_by_characters(page, hypothesis, reference, pieces):
    found = page.evaluate(f"differences({json.dumps(hypothesis)}, {json.dumps(reference)})")
    assert sorted(found) == sorted(pieces)
    assert "".join(text for kind, text in found if kind != "missing") == hypothesis


def test_marks_can_be_selected(page, examples):
    text = "[...document.querySelectorAll('#samples tbody tr')][0].cells[3].querySelector('.text').textContent"
    assert page.evaluate(text) == examples[0].hypotheses[0]
    assert page.evaluate("document.querySelectorAll('ins').length") > 0
    assert page.evaluate("document.querySelectorAll('del').length") == 0
    choose(page, "marks", "both")
    page.wait("document.querySelectorAll('del').length > 0")
    choose(page, "marks", "none")
    page.wait("document.querySelectorAll('ins, del').length === 0")


def test_the_accessibility_tree_has_the_table_and_named_controls(page):
    for width in (1280, 390):
        page.set_viewport(width)
        roles = page.roles()
        kinds = {role for role, _ in roles}
        assert {"table", "row", "rowheader", "cell", "status", "insertion"} <= kinds
        controls = [(r, n) for r, n in roles if r in ("button", "combobox", "spinbutton", "searchbox", "checkbox")]
        assert all(name.strip() for _, name in controls)
    page.set_viewport(1280)
    heads = [name for role, name in page.roles() if role == "columnheader"]
    assert heads[-6:] == ["#", "Source", "Reference", "full", "lora", "Difference"]


def contrast(page, selector: str) -> float:
    """Return the WCAG contrast ratio of an element's text and its background."""
    colours = page.evaluate(
        f"(() => {{ const e = document.querySelector('{selector}'); let b = e;"
        " while (getComputedStyle(b).backgroundColor === 'rgba(0, 0, 0, 0)') b = b.parentElement;"
        " return [getComputedStyle(e).color, getComputedStyle(b).backgroundColor]; })()"
    )
    lights = []
    for colour in colours:
        parts = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_sufficient_contrast_in_both_schemes(page, scheme):
    page.set_viewport(1280, scheme=scheme)
    choose(page, "marks", "both")
    page.wait("document.querySelector('del') !== null")
    for selector in ("h1", "#lead", "ins", "del", ".figures", "#status", "thead button", "caption", "input"):
        assert contrast(page, selector) >= 4.5, selector
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", dark)[:3])) < 150) == (scheme == "dark")


def test_a_phone_shows_cards_without_horizontal_scrolling(page, address, tmp_path):
    page.set_viewport(390)
    page.open(address)
    assert page.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    assert page.evaluate("document.getElementById('settings').open") is False
    assert page.evaluate("getComputedStyle(document.querySelector('#samples td .label')).display") == "block"
    page.requests[:] = [address]


def test_print_shows_rows_without_controls(page):
    page.set_viewport(1280, scheme="dark", media="print")
    assert page.evaluate("document.getElementById('controls').offsetHeight") == 0
    assert page.evaluate("document.querySelector('#samples tbody tr').offsetHeight") > 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(252, 252, 250)"  # light, for paper


def test_hostile_texts_are_shown_unchanged(browser, tmp_path, hostile):
    examples = [Sample(i, s, r, "de", (r, s), (1.0, None)) for i, (s, r) in enumerate(hostile)]
    path = build_page(tmp_path, examples)
    browser.requests.clear()
    browser.console_errors.clear()
    browser.open(path.as_uri())
    cells = browser.evaluate(
        "[...document.querySelectorAll('#samples tbody tr')].map(row => [1, 2, 3, 4].map(i =>"
        " row.cells[i].querySelector('.text').textContent))"
    )
    assert cells == [[s, r, r, s] for s, r in hostile]
    assert browser.evaluate("document.title").startswith("Samples of test")
    assert browser.evaluate("document.querySelectorAll('script').length") == 2
    assert set(browser.requests) <= {path.as_uri(), "about:blank"}
    assert browser.console_errors == []


def test_one_run_has_no_differences_and_long_texts_collapse(browser, tmp_path):
    source, endless = "a long source " * 100, " ".join(map(str, range(4000)))
    examples = [
        Sample(0, source, "short", "de", ("short text",), (1.0,)),
        Sample(1, "s", "r " * 3000, "de", (endless,), (1.0,)),
    ]
    path = build_page(tmp_path, examples)
    browser.console_errors.clear()
    browser.set_viewport(1280)
    browser.open(path.as_uri())
    assert browser.evaluate("document.querySelectorAll('#samples thead th').length") == 4
    assert browser.evaluate("[...document.querySelectorAll('.two')].every(e => e.offsetHeight === 0)")
    height = "document.querySelector('#samples tbody td .text').offsetHeight"
    folded = browser.evaluate(height)
    browser.click("#samples .more")
    assert browser.evaluate(height) > folded
    assert browser.evaluate("document.querySelector('.more').getAttribute('aria-expanded')") == "true"
    assert "too long to compare" in browser.evaluate("document.querySelector('#samples tbody').textContent")
    assert browser.console_errors == []


def test_ten_thousand_rows_are_sorted_filtered_and_paged(browser, tmp_path):
    examples = make_examples(10_000)
    draw = random.Random(2)
    rows = [tuple(None if h is None else draw.uniform(0, 100) for h in e.hypotheses) for e in examples]
    path = build_page(tmp_path, examples, SentenceScores("chrf", "planted", rows))
    browser.set_viewport(1280)
    browser.open(path.as_uri())
    assert "rows 1–50 of 10000" in browser.evaluate(STATUS)
    browser.evaluate("sortBy('difference'); FORM.text.value = 'zürich'; update(); turn(1)")
    assert "rows 51–100 of " in browser.evaluate(STATUS)
    assert browser.evaluate("document.querySelectorAll('#samples tbody tr').length") == 50


def test_requests_and_errors_are_detected(browser):
    browser.open("data:text/html,<script>fetch('http://127.0.0.1:9/x').catch(() => 0); missing()</script>")
    browser.wait("true")
    assert any(address == "http://127.0.0.1:9/x" for address in browser.requests)
    assert any("missing is not defined" in error for error in browser.console_errors)
