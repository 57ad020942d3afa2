// Refresh the part of a page that changes, and take "/" to the filter. Everything works without this file.
"use strict";

const now = document.getElementById("now");
const pause = document.getElementById("pause");
const trouble = document.getElementById("trouble");
let paused = pause !== null && pause.getAttribute("aria-pressed") === "true";

function say(words) {
  if (trouble && trouble.textContent !== words) trouble.textContent = words;
}

async function refresh() {
  // A page that nobody looks at asks nothing; one that is being read with a keyboard keeps its focus.
  if (paused || document.hidden || now.contains(document.activeElement)) return;
  try {
    const response = await fetch(now.dataset.from || location.href, { redirect: "error" });
    if (!response.ok) throw new Error(response.status === 401 ? "log in again" : `HTTP ${response.status}`);
    const text = await response.text();
    // The status page has a part of its own; of the others, the same part of the whole page is taken.
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
