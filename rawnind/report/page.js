"use strict";
const root = document.documentElement;
const filter = document.getElementById("filter");
const zoom = document.getElementById("zoom");

function toggleTheme() {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
}

function enlarge(image) {
  zoom.querySelector("img").src = image.src;
  zoom.querySelector("p").textContent = image.alt;
  zoom.showModal();
}

function step(by) {
  const scenes = [...document.querySelectorAll(".scene:not([hidden])")];
  const now = scenes.indexOf(document.activeElement);
  const next = scenes[Math.min(Math.max(now + by, 0), scenes.length - 1)];
  if (next) {
    next.focus({ preventScroll: true });
    next.scrollIntoView({ block: "start" });
  }
}

filter.addEventListener("input", () => {
  const text = filter.value.toLowerCase();
  for (const element of document.querySelectorAll("[data-name]")) {
    element.hidden = !element.dataset.name.toLowerCase().includes(text);
  }
});
document.getElementById("theme").addEventListener("click", toggleTheme);
zoom.addEventListener("click", () => zoom.close());
document.addEventListener("click", (event) => {
  if (event.target.matches("figure img")) enlarge(event.target);
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || zoom.open) return;
  if (event.target === filter) {
    if (event.key === "Escape") filter.blur();
  } else if (event.key === "Enter" && event.target.matches("figure img")) enlarge(event.target);
  else if (event.key === "/") {
    event.preventDefault();
    filter.focus();
  } else if (event.key === "t") toggleTheme();
  else if (event.key === "j") step(1);
  else if (event.key === "k") step(-1);
});
