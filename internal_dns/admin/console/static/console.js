// Refresh the part of a page that changes, and focus the filter on "/". Every page works without this file.
"use strict";

const now = document.getElementById("now");
const pause = document.getElementById("pause");
const trouble = document.getElementById("trouble");
let paused = pause !== null && pause.getAttribute("aria-pressed") === "true";

function say(words) {
  if (trouble && trouble.textContent !== words) trouble.textContent = words;
}

async function refresh() {
  // Do not refresh a hidden page, or one whose changing part has the keyboard focus.
  if (paused || document.hidden || now.contains(document.activeElement)) return;
  try {
    const response = await fetch(now.dataset.from || location.href, { redirect: "error" });
    if (!response.ok) throw new Error(response.status === 401 ? "log in again" : `HTTP ${response.status}`);
    const text = await response.text();
    // The status page has a URL for its changing part; other pages are fetched whole.
    const part = now.dataset.from ? null : new DOMParser().parseFromString(text, "text/html").getElementById("now");
    if (part || now.dataset.from) now.innerHTML = part ? part.innerHTML : text;
    say("");
  } catch (error) {
    say(error instanceof TypeError ? "the server does not answer" : error.message);
  }
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, select, textarea");
  const field = document.getElementById("filter") || document.getElementById("find");
  if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey || !field) return;
  event.preventDefault();
  field.focus();
});

if (pause) {
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
  });
  pause.hidden = false;
}
if (now) setInterval(refresh, Number(now.dataset.every) * 1000);
