// Filters, sorts and pages the rows, and marks differences from the reference.
// Texts are inserted as text nodes only.

const DATA = JSON.parse(document.getElementById("data").textContent);
const RUNS = DATA.runs;
const COUNT = DATA.index.length;
const FORM = document.getElementById("controls");
const LONG_TEXT = 700; // longer texts (in characters) are collapsed
const TYPING_PAUSE = 150; // milliseconds

// ---- filtering and sorting ------------------------------------------------------------------------------------------

const LENGTHS = { source: DATA.source.map(words), reference: DATA.reference.map(words) };

// Sort orders: name, and an array of each row's key (null in the array: no value; null instead of it: the difference).
function orders() {
  const found = new Map([
    ["example", { name: "example", keys: DATA.index }],
    ["source", { name: "length of source", keys: LENGTHS.source }],
    ["reference", { name: "length of reference", keys: LENGTHS.reference }],
  ]);
  RUNS.forEach((run, index) => found.set(`score${index}`, { name: `${DATA.metric}: ${run.name}`, keys: run.score }));
  if (RUNS.length > 1) found.set("difference", { name: `difference of ${DATA.metric}`, keys: null });
  RUNS.forEach((run, index) => {
    if (run.loss.some((loss) => loss !== null)) found.set(`loss${index}`, { name: `loss: ${run.name}`, keys: run.loss });
  });
  return found;
}
const ORDERS = orders();

function difference(row) {
  const [left, right] = [RUNS[FORM.left.value].score[row], RUNS[FORM.right.value].score[row]];
  return left === null || right === null ? null : left - right;
}

function keyOf(sort) {
  const keys = ORDERS.get(sort).keys;
  return keys ? (row) => keys[row] : difference;
}

// Lower-case texts to search, computed when a field is first searched.
const haystacks = {};
function haystack(where) {
  if (!haystacks[where]) {
    const hypotheses = (row) => RUNS.map((run) => run.hypothesis[row] ?? "").join("\n");
    const texts = {
      source: (row) => DATA.source[row],
      reference: (row) => DATA.reference[row],
      hypotheses,
      any: (row) => [DATA.source[row], DATA.reference[row], hypotheses(row)].join("\n"),
    }[where];
    haystacks[where] = Array.from({ length: COUNT }, (_, row) => texts(row).toLowerCase());
  }
  return haystacks[where];
}

function matchingRows() {
  const needle = FORM.text.value.toLowerCase();
  const texts = needle ? haystack(FORM.where.value) : null;
  const lengths = LENGTHS[FORM.of.value];
  const least = FORM.least.value === "" ? 0 : Number(FORM.least.value);
  const most = FORM.most.value === "" ? Infinity : Number(FORM.most.value);
  const differ = FORM.differ.checked;
  const rows = [];
  for (let row = 0; row < COUNT; row++) {
    if (lengths[row] < least || lengths[row] > most) continue;
    if (texts && !texts[row].includes(needle)) continue;
    if (differ && RUNS.every((run) => run.hypothesis[row] === RUNS[0].hypothesis[row])) continue;
    rows.push(row);
  }
  return rows;
}

// Rows in the chosen order: rows without a key are last, ties keep the order of the file.
function sorted(rows) {
  const key = keyOf(FORM.sort.value);
  const sign = FORM.direction.value === "descending" ? -1 : 1;
  const keyed = rows.map((row) => [key(row), row]);
  keyed.sort(([a, i], [b, j]) => (a === null) - (b === null) || sign * (a - b) || i - j);
  return keyed.map(([, row]) => row);
}

let filtered = []; // filtered rows in order

// ---- elements -------------------------------------------------------------------------------------------------------

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function number(value, digits) {
  return value === null ? "–" : value.toFixed(digits).replace("-", "−");
}

function signed(value) {
  return value === null ? "–" : (value > 0 ? "+" : "") + number(value, 1);
}

// The value of the lang attribute; null for the artificial languages.
function languageOf(row) {
  const code = DATA.language[row];
  return code && /^[a-z]{2,3}([-_]|$)/.test(code) ? code.replaceAll("_", "-") : null;
}

function textBlock(pieces, lang) {
  const tags = { extra: "ins", missing: "del" };
  const block = element("div", { class: "text", dir: "auto", lang });
  for (const [kind, text] of pieces) {
    const marked = text.trimEnd(); // trailing space is not marked
    if (tags[kind]) block.append(element(tags[kind], {}, marked), text.slice(marked.length));
    else block.append(text);
  }
  return block;
}

// A text with a button to expand it if it is long.
function collapsible(block) {
  const length = block.textContent.length;
  if (length <= LONG_TEXT) return [block];
  const button = element("button", { type: "button", class: "more", "aria-expanded": "false" }, `All ${length} characters`);
  block.classList.add("long");
  button.addEventListener("click", () => {
    const open = block.classList.toggle("open");
    button.setAttribute("aria-expanded", String(open));
  });
  return [block, button];
}

function plainCell(label, text, lang) {
  const content = text === "" ? [element("span", { class: "none" }, "empty")] : collapsible(textBlock([["same", text]], lang));
  return element("td", { role: "cell" }, element("span", { class: "label" }, label), ...content);
}

function hypothesisContent(text, row) {
  const note = (words) => element("span", { class: "none" }, words);
  if (text === null) return [note("not decoded")];
  const marks = FORM.marks.value, lang = languageOf(row);
  const pieces = marks === "none" ? [["same", text]] : differences(text, DATA.reference[row]);
  if (!pieces) return [...collapsible(textBlock([["same", text]], lang)), note("too long to compare")];
  const wanted = pieces.filter(([kind]) => kind !== "missing" || marks === "both");
  return [...(text === "" ? [note("empty")] : []), ...(wanted.length ? collapsible(textBlock(wanted, lang)) : [])];
}

function hypothesisCell(run, row) {
  const score = run.score[row];
  const others = RUNS.map((other) => other.score[row] ?? -1);
  const best = score !== null && Math.max(...others) === score && Math.min(...others) < score;
  const figures = element("span", { class: "figures" },
    element(best ? "strong" : "span", {}, `${DATA.metric} ${number(score, 1)}`),
    run.loss[row] === null ? "" : ` · loss ${number(run.loss[row], 2)}`,
    run.atLimit[row] ? " · cut off at the length limit" : "");
  const label = element("span", { class: "label" }, run.name);
  return element("td", { role: "cell" }, label, figures, ...hypothesisContent(run.hypothesis[row], row));
}

function rowElement(row) {
  const made = element("tr", { role: "row" },
    element("th", { scope: "row", role: "rowheader" }, element("span", { class: "label" }, "example"), String(DATA.index[row])),
    plainCell("source", DATA.source[row], null),
    plainCell("reference", DATA.reference[row], languageOf(row)),
    ...RUNS.map((run) => hypothesisCell(run, row)));
  if (RUNS.length > 1) {
    const label = element("span", { class: "label" }, "difference");
    made.append(element("td", { role: "cell", class: "difference" }, label, signed(difference(row))));
  }
  return made;
}

// ---- the page -------------------------------------------------------------------------------------------------------

function buildControls() {
  for (const [value, order] of ORDERS) FORM.sort.append(element("option", { value }, order.name));
  RUNS.forEach((run, index) => {
    FORM.left.append(element("option", { value: index }, run.name));
    FORM.right.append(element("option", { value: index, ...(index === 1 ? { selected: "" } : {}) }, run.name));
  });
  for (const label of FORM.querySelectorAll(".two")) label.hidden = RUNS.length < 2;
}

function buildHeader() {
  const heads = [["example", "#"], ["source", "Source"], ["reference", "Reference"]];
  RUNS.forEach((run, index) => heads.push([`score${index}`, run.name]));
  if (RUNS.length > 1) heads.push(["difference", "Difference"]);
  for (const [sort, name] of heads) {
    const button = element("button", { type: "button", title: `sort by ${ORDERS.get(sort).name}` }, name);
    button.addEventListener("click", () => sortBy(sort));
    const kind = sort === "difference" ? "difference" : null;
    document.querySelector("#samples thead tr").append(
      element("th", { scope: "col", role: "columnheader", "data-sort": sort, class: kind }, button));
  }
  document.querySelector(".wide").classList.toggle("fits", RUNS.length <= 3);
  document.getElementById("legend").textContent =
    `Sentence-level ${DATA.metric}: ${DATA.signature}. Loss in nats per token. Lengths count words, and characters of ` +
    "Chinese and Japanese. Differences are from a longest common subsequence of these.";
}

function sortBy(sort) {
  const turn = FORM.sort.value === sort && FORM.direction.value === "ascending";
  FORM.sort.value = sort;
  FORM.direction.value = turn ? "descending" : "ascending";
  update();
}

// Apply a changed filter or order, and go to the first page.
function update() {
  filtered = sorted(matchingRows());
  FORM.page.value = 1;
  showMeans();
  show();
}

function show() {
  const size = Number(FORM.size.value);
  const pages = Math.max(1, Math.ceil(filtered.length / size));
  const page = Math.min(pages, Math.max(1, Math.trunc(Number(FORM.page.value)) || 1));
  const rows = filtered.slice((page - 1) * size, page * size);
  FORM.page.value = page;
  FORM.page.max = pages;
  document.getElementById("pages").textContent = `of ${pages}`;
  document.getElementById("previous").disabled = page === 1;
  document.getElementById("next").disabled = page === pages;
  document.querySelector("#samples tbody").replaceChildren(...rows.map(rowElement));
  showState(rows.length ? (page - 1) * size + 1 : 0, rows.length);
}

function showState(first, count) {
  const order = `by ${ORDERS.get(FORM.sort.value).name}, ${FORM.direction.selectedOptions[0].text}`;
  const part = count ? `rows ${first}–${first + count - 1} of ${filtered.length}` : "no rows match the filter";
  const total = filtered.length < COUNT ? ` (${COUNT} unfiltered)` : "";
  document.getElementById("status").textContent = count ? `${part}${total}, ${order}` : part;
  for (const head of document.querySelectorAll("#samples thead th")) {
    if (head.dataset.sort === FORM.sort.value) head.setAttribute("aria-sort", FORM.direction.value);
    else head.removeAttribute("aria-sort");
  }
  const names = [FORM.left, FORM.right].map((field) => RUNS[field.value].name);
  document.getElementById("samples-caption").textContent =
    RUNS.length > 1 ? `Samples; difference: ${names[0]} minus ${names[1]}` : "Samples";
  saveView();
}

function mean(values) {
  const known = values.filter((value) => value !== null);
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
}

function showMeans() {
  const table = document.getElementById("means");
  const heads = ["run", `mean ${DATA.metric}`, "mean loss of an example", "decoded", "equal to the reference", "empty", "cut off at the length limit"];
  table.tHead.replaceChildren(element("tr", {}, ...heads.map((name) => element("th", { scope: "col" }, name))));
  table.tBodies[0].replaceChildren(...RUNS.map((run) => {
    const count = (test) => String(filtered.filter((row) => run.hypothesis[row] !== null && test(row)).length);
    const cells = [
      number(mean(filtered.map((row) => run.score[row])), 2),
      number(mean(filtered.map((row) => run.loss[row])), 3),
      count(() => true),
      count((row) => run.hypothesis[row] === DATA.reference[row]),
      count((row) => run.hypothesis[row] === ""),
      run.atLimit.some((known) => known !== null) ? count((row) => run.atLimit[row]) : "unknown",
    ];
    return element("tr", {}, element("th", { scope: "row" }, run.name), ...cells.map((cell) => element("td", {}, cell)));
  }));
}

// The view is stored in the URL fragment, so that links and reloads restore it.
function saveView() {
  const state = new URLSearchParams(new FormData(FORM));
  for (const [name, value] of [...state]) if (value === "") state.delete(name);
  try {
    history.replaceState(null, "", `#${state}`);
  } catch {
    // Some viewers of local files forbid it; the URL then stays unchanged.
  }
}

function restoreView() {
  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
    const field = FORM.elements.namedItem(name);
    if (field === null) continue;
    if (field.type === "checkbox") field.checked = true;
    else if (field.tagName !== "SELECT" || [...field.options].some((option) => option.value === value)) field.value = value;
  }
}

function turn(step) {
  FORM.page.value = Number(FORM.page.value) + step;
  show();
}

let waiting = 0;
function onInput(event) {
  clearTimeout(waiting);
  if (event.target.name === "page") waiting = setTimeout(show, TYPING_PAUSE);
  else waiting = setTimeout(update, event.type === "input" ? TYPING_PAUSE : 0);
}

function start() {
  if (matchMedia("(max-width: 43.99rem)").matches) document.getElementById("settings").open = false;
  buildControls();
  buildHeader();
  restoreView();
  const page = FORM.page.value;
  update();
  FORM.page.value = page;
  show();
  FORM.addEventListener("input", onInput);
  document.querySelector('[name="page"]').addEventListener("input", onInput);
  FORM.addEventListener("reset", () => setTimeout(update));
  FORM.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("previous").addEventListener("click", () => turn(-1));
  document.getElementById("next").addEventListener("click", () => turn(1));
}

start();
