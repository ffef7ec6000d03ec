// What the pictures say when a pointer or a keyboard asks, and which of their series are seen.
// A picture's readings lie in a script element beside it: series [group, name, colour], and a list for each field of
// its points. All text is set as text, never as markup.
"use strict";

const REACH = 16; // pixels from a point within which it answers

for (const figure of document.querySelectorAll("figure")) {
  const source = figure.querySelector("script");
  if (source) explore(figure, JSON.parse(source.textContent));
}

function explore(figure, data) {
  const canvas = figure.querySelector(".canvas");
  const svg = canvas.querySelector("svg");
  const off = new Set(); // numbers of hidden series
  const ring = add(canvas, "div", "ring hidden");
  const tip = add(canvas, "div", "tip hidden");
  const spoken = add(figure, "p", "spoken");
  spoken.setAttribute("role", "status");
  let at = -1; // the point that the keyboard is on

  const seen = (i) => !off.has(data.series_of[i]);
  const count = data.text.length;

  addToggles(figure, data.series, (number, shown) => {
    if (shown) off.delete(number);
    else off.add(number);
    for (const part of svg.querySelectorAll(`.s${number}`)) part.classList.toggle("hidden", !shown);
    hide();
  });
  if (!count) return;

  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-roledescription", "picture with points");
  canvas.setAttribute(
    "aria-label",
    `${svg.getAttribute("aria-label")}. ${count} points: left and right walk along them, up and down change the series, ` +
      "Escape leaves.",
  );

  canvas.addEventListener("pointermove", (event) => point(event));
  canvas.addEventListener("pointerdown", (event) => point(event));
  canvas.addEventListener("pointerleave", () => hide());
  canvas.addEventListener("blur", () => hide());
  canvas.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Escape") {
      hide();
      canvas.blur();
    } else if (!move(event.key)) return;
    event.preventDefault();
  });

  function point(event) {
    const near = nearest(event.clientX, event.clientY);
    if (near < 0) hide();
    else show(near);
  }

  // Moves the keyboard's point; whether the key is one of ours.
  function move(key) {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1, Home: 1, End: -1 }[key];
    if (!step) return false;
    const jump = key === "ArrowDown" || key === "ArrowUp";
    const start = key === "Home" ? -1 : key === "End" ? count : at < 0 && step < 0 ? count : at;
    const own = at < 0 ? undefined : data.series_of[at];
    for (let i = start + step; i >= 0 && i < count; i += step) {
      if (seen(i) && !(jump && data.series_of[i] === own)) {
        show(i);
        spoken.textContent = data.text[i];
        at = i;
        break;
      }
    }
    return true;
  }

  function nearest(clientX, clientY) {
    const matrix = svg.getScreenCTM();
    const place = new DOMPoint(clientX, clientY).matrixTransform(matrix.inverse());
    let best = -1;
    let least = (REACH / matrix.a) ** 2;
    for (let i = 0; i < count; i++) {
      const distance = (data.x[i] - place.x) ** 2 + (data.y[i] - place.y) ** 2;
      if (distance < least && seen(i)) [best, least] = [i, distance];
    }
    return best;
  }

  function show(i) {
    const place = new DOMPoint(data.x[i], data.y[i]).matrixTransform(svg.getScreenCTM());
    const box = canvas.getBoundingClientRect();
    const [x, y] = [place.x - box.x, place.y - box.y];
    Object.assign(ring.style, { left: `${x}px`, top: `${y}px` });
    tip.textContent = data.text[i];
    for (const part of [ring, tip]) part.classList.remove("hidden");
    const left = Math.max(0, Math.min(x + 12, box.width - tip.offsetWidth));
    const above = y > tip.offsetHeight + 14;
    Object.assign(tip.style, { left: `${left}px`, top: `${above ? y - tip.offsetHeight - 12 : y + 14}px` });
  }

  function hide() {
    at = -1;
    for (const part of [ring, tip]) part.classList.add("hidden");
    spoken.textContent = "";
  }
}

// One button a series, those of a group together, above the picture; none where there is nothing to choose.
function addToggles(figure, series, change) {
  const groups = new Map();
  series.forEach(([group], number) => groups.set(group, [...(groups.get(group) ?? []), number]));
  for (const [group, numbers] of groups) {
    if (numbers.length < 2 && groups.size < 2) continue;
    const bar = add(figure, "div", "toggles", figure.querySelector(".frame"));
    bar.setAttribute("role", "group");
    bar.setAttribute("aria-label", `show ${group}`);
    add(bar, "span", "faint").textContent = `${group}:`;
    for (const number of numbers) {
      const [, name, colour] = series[number];
      const button = add(bar, "button", "");
      button.type = "button";
      button.setAttribute("aria-pressed", "true");
      add(button, "i", "").style.background = `var(--c${colour})`;
      add(button, "span", "").textContent = name;
      button.addEventListener("click", () => {
        const shown = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", String(shown));
        change(number, shown);
      });
    }
  }
}

function add(parent, tag, kind, before = null) {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  parent.insertBefore(element, before);
  return element;
}
