"use strict";

const root = document.documentElement;
root.classList.add("scripted");

// Colours: the figures' own become those of a dark page.

const DARK = JSON.parse(document.getElementById("dark-colours").textContent);
const COLOUR = /#[0-9a-f]{6}\b|rgba?\([^)]*\)|\bwhite\b/gi;

function darkened(colour) {
  if (colour.toLowerCase() === "white") return DARK["#ffffff"];
  const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const [r, g, b, opacity = 1] = colour.startsWith("#") ? channels(colour) : colour.match(/[\d.]+/g).map(Number);
  if (opacity === 0) return colour;
  const known = DARK["#" + [r, g, b].map((c) => Math.round(c).toString(16).padStart(2, "0")).join("")];
  const shift = 255 - Math.max(r, g, b) - Math.min(r, g, b); // an unknown colour: its hue, with the lightness turned over
  const turned = known ? channels(known) : [r, g, b].map((c) => c + shift);
  return `rgba(${turned.join(", ")}, ${opacity})`;
}

// A text may name a colour ("white" as an answer), so only what is under a colour's key is one.
function painted(value, key = "") {
  if (typeof value === "string") {
    return /color(scale)?$/i.test(key)
      ? value.replace(COLOUR, darkened)
      : value.replace(/(color:\s*)(#[0-9a-f]{6})/gi, (_, before, colour) => before + darkened(colour));
  }
  if (Array.isArray(value)) return value.map((item) => painted(item, key));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, painted(part, name)]));
}

// The theme: the system's until the reader chooses; paper is light.

const PAPER = 680; // pixels
const toggle = document.getElementById("theme");
const preferred = matchMedia("(prefers-color-scheme: dark)");
let chosen = null;
let printing = false;

function show() {
  const dark = !printing && (chosen ?? preferred.matches);
  root.dataset.theme = dark ? "dark" : "light";
  toggle.setAttribute("aria-pressed", dark);
  for (const source of document.querySelectorAll("script[data-figure]")) {
    const figure = JSON.parse(source.textContent);
    const { data, layout } = dark ? painted(figure) : figure;
    if (printing) layout.width = Math.min(PAPER, parseInt(source.parentElement.style.maxWidth) || PAPER);
    Plotly.react(source.dataset.figure, data, layout, { responsive: true, displayModeBar: false });
  }
}

toggle.addEventListener("click", () => {
  chosen = root.dataset.theme !== "dark";
  show();
});
preferred.addEventListener("change", show);
let opened = [];
addEventListener("beforeprint", () => {
  printing = true;
  opened = [...document.querySelectorAll("details:not([open])")];
  opened.forEach((details) => (details.open = true));
  show();
});
addEventListener("afterprint", () => {
  printing = false;
  opened.forEach((details) => (details.open = false));
  show();
  document.querySelectorAll(".plotly-graph-div").forEach((graph) => Plotly.Plots.resize(graph));
});

// The contents: a link to each heading, the one in sight marked.

const contents = document.getElementById("contents");
const links = new Map();
document.querySelectorAll("main h2").forEach((heading, at) => {
  const place = heading.closest("section[id]") ?? heading;
  place.id ||= `part-${at}`;
  const link = document.createElement("a");
  link.href = `#${place.id}`;
  link.textContent = heading.textContent;
  contents.append(link);
  links.set(heading, link);
});
contents.hidden = links.size < 2;

function mark() {
  const passed = [...links].filter(([heading]) => heading.getBoundingClientRect().top < 0.3 * innerHeight);
  const [, current] = passed.at(-1) ?? [];
  for (const link of links.values()) {
    if (link === current) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
  if (current) contents.scrollLeft = current.offsetLeft - contents.clientWidth / 3;
}
addEventListener("scroll", mark, { passive: true });

// Downloads.

for (const button of document.querySelectorAll("button[data-csv]")) {
  button.addEventListener("click", () => {
    const table = JSON.parse(document.getElementById(button.dataset.csv).textContent);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([table], { type: "text/csv" }));
    link.download = button.dataset.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}

show();
mark();
