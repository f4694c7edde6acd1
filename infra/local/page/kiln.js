// Follows the log of a running build, reloads what is under way, and copies
// what is clicked. Without it the page shows the same, as of its loading.
"use strict";

for (const el of document.querySelectorAll(".copy")) {
  el.title = "click to copy";
  el.addEventListener("click", () => navigator.clipboard?.writeText(el.textContent));
}

if (document.querySelector("[data-live]")) {
  const events = new EventSource("/events");
  const reload = () => { events.close(); location.reload(); };
  for (const type of ["started", "finished", "requested"]) {
    events.addEventListener(`dev.kilnhook.build.${type}.v1`, reload);
  }
}

const log = document.getElementById("log");
if (log?.dataset.follow) follow(log);

async function follow(log) {
  const response = await fetch(log.dataset.follow);
  if (!response.ok) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  log.textContent = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 20;
    log.append(value); // as text, never as markup
    if (atEnd) log.scrollTop = log.scrollHeight;
  }
  location.reload();
}
