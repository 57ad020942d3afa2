// Refresh the status page: fetch the part that changes, put it in place. Everything else works without this file.
"use strict";

const now = document.getElementById("now");
const pause = document.getElementById("pause");
const trouble = document.getElementById("trouble");
let paused = pause.getAttribute("aria-pressed") === "true";

async function refresh() {
  // A page that nobody looks at asks nothing; one that is being read with a keyboard keeps its focus.
  if (paused || document.hidden || now.contains(document.activeElement)) return;
  try {
    const response = await fetch(now.dataset.from, { redirect: "error" });
    if (!response.ok) throw new Error(response.status === 401 ? "log in again" : `HTTP ${response.status}`);
    now.innerHTML = await response.text();
    if (trouble.textContent) trouble.textContent = "";
  } catch (error) {
    const words = error instanceof TypeError ? "the server does not answer" : error.message;
    if (trouble.textContent !== words) trouble.textContent = words;
  }
}

pause.addEventListener("click", () => {
  paused = !paused;
  pause.setAttribute("aria-pressed", String(paused));
});
pause.hidden = false;
setInterval(refresh, Number(now.dataset.every) * 1000);
