// What pages do more with JavaScript than without: follow a running build, scroll
// through a long log without loading it whole, copy, and keep the list up to date.
// Text of builds only ever becomes text nodes.
const CHUNK = 100; // lines that are loaded at once
const LINE = 18; // pixels, as in console.css
const say = (text) => { const el = document.getElementById("say"); if (el && el.textContent !== text) el.textContent = text; };

for (const button of document.querySelectorAll("button.copy")) copies(button);

function copies(button) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const text = document.getElementById(button.dataset.copy)?.textContent ?? "";
    try {
      await navigator.clipboard.writeText(text);
      say("Copied");
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(document.getElementById(button.dataset.copy));
      say("Selected; copy it with the keyboard");
    }
  });
}

// Log shows the lines of a step of which only those in sight are in the document.
class Log {
  constructor(box, id, step, total) {
    Object.assign(this, { box, step, url: `/builds/${id}/lines?step=${step}`, total: 0, chunks: new Map(), queued: false });
    this.pre = box.querySelector("pre");
    this.pre.replaceChildren();
    box.classList.add("windowed");
    box.closest("details").querySelector(".earlier")?.remove();
    this.extend(total);
    this.box.scrollTop = this.box.scrollHeight;
    box.addEventListener("scroll", () => this.soon(), { passive: true });
    new ResizeObserver(() => this.soon()).observe(box);
    this.soon();
  }

  extend(total) {
    if (total === this.total) return;
    const atEnd = this.box.scrollTop + this.box.clientHeight >= this.box.scrollHeight - LINE;
    this.total = total;
    this.pre.style.height = `${total * LINE}px`;
    if (atEnd) this.box.scrollTop = this.box.scrollHeight;
    this.soon();
  }

  soon() {
    if (this.queued) return;
    this.queued = true;
    requestAnimationFrame(() => { this.queued = false; this.draw(); });
  }

  draw() {
    if (!this.box.clientHeight) return;
    const top = this.box.scrollTop / LINE;
    const first = Math.max(0, Math.floor(top / CHUNK - 0.5));
    const last = Math.min(Math.floor((this.total - 1) / CHUNK), Math.floor((top + this.box.clientHeight / LINE) / CHUNK + 0.5));
    for (const [n, chunk] of this.chunks) {
      if (n < first || n > last) {
        chunk.stop.abort();
        chunk.el?.remove();
        this.chunks.delete(n);
      }
    }
    for (let n = first; n <= last; n++) {
      const want = Math.min(CHUNK, this.total - n * CHUNK);
      const have = this.chunks.get(n);
      if (!have) this.load(n, want, { stop: new AbortController(), lines: 0 });
      else if (have.lines < want && !have.busy) this.load(n, want, have);
    }
  }

  async load(n, want, chunk) {
    this.chunks.set(n, chunk);
    chunk.busy = true;
    try {
      const from = n * CHUNK + chunk.lines;
      const answer = await fetch(`${this.url}&from=${from}&count=${want - chunk.lines}`, { signal: chunk.stop.signal });
      if (!answer.ok) throw new Error(answer.statusText);
      const { lines } = await answer.json();
      if (this.chunks.get(n) !== chunk) return;
      if (!chunk.el) {
        chunk.el = document.createElement("div");
        chunk.el.className = "chunk";
        chunk.el.style.top = `${n * CHUNK * LINE}px`;
        this.pre.append(chunk.el);
      }
      const rows = document.createDocumentFragment();
      rows.append(...lines.map(row));
      chunk.el.append(rows);
      chunk.lines += lines.length;
    } catch (err) {
      if (err.name !== "AbortError") this.chunks.delete(n);
    } finally {
      chunk.busy = false;
    }
    if (this.chunks.get(n) === chunk && chunk.lines < Math.min(CHUNK, this.total - n * CHUNK)) this.soon();
  }
}

function row(line) {
  const el = document.createElement("span");
  el.className = line.e ? "l e" : "l";
  el.dataset.n = line.n;
  if (line.at) el.title = `${line.at} s`;
  for (const { t, c } of line.s ?? []) {
    if (!c) { el.append(t); continue; }
    const span = document.createElement("span");
    span.className = c;
    span.textContent = t;
    el.append(span);
  }
  el.append("\n");
  return el;
}

// swap replaces parts of this page with those of a newer one, and keeps what is
// unfolded and where the keyboard is.
function swap(fresh, ids) {
  for (const id of ids) {
    const old = document.getElementById(id), now = fresh.getElementById(id);
    if (!old || !now || old.innerHTML === now.innerHTML) continue;
    const open = [...old.querySelectorAll("details[open]")].map((d) => d.id || d.querySelector("summary").textContent);
    const focus = old.contains(document.activeElement) ? document.activeElement : null;
    const again = focus && (focus.id ? `#${CSS.escape(focus.id)}` : focus.getAttribute("href") ? `a[href="${CSS.escape(focus.getAttribute("href"))}"]` : null);
    const node = document.adoptNode(now);
    for (const d of node.querySelectorAll("details")) if (open.includes(d.id || d.querySelector("summary").textContent)) d.open = true;
    old.replaceWith(node);
    node.querySelectorAll("button.copy").forEach(copies);
    if (again) node.querySelector(again)?.focus({ preventScroll: true });
  }
}

async function newer(address) {
  const answer = await fetch(address, { headers: { Accept: "text/html" } });
  if (!answer.ok) throw new Error(answer.statusText);
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}

const build = document.getElementById("build");
if (build) watch(build.dataset.id, build.dataset.ended === "true");

function watch(id, ended) {
  const logs = new Map(), lines = new Map();
  const show = (details) => {
    const step = Number(details.dataset.n);
    if (!lines.has(step)) lines.set(step, Number(details.dataset.lines));
    const start = () => {
      if (details.open && !logs.has(step)) logs.set(step, new Log(details.querySelector(".text"), id, step, lines.get(step)));
      logs.get(step)?.soon();
    };
    details.addEventListener("toggle", start);
    start();
  };
  document.querySelectorAll("#log > details.step").forEach(show);
  const unfold = () => {
    const step = document.querySelector(location.hash.match(/^#s\d+$/) ? location.hash : "#none");
    if (step) step.open = true;
  };
  addEventListener("hashchange", unfold);
  unfold();
  if (ended) return;

  let busy = false, wanted = false, last = 0;
  const refresh = async () => {
    if (busy) { wanted = true; return; }
    busy = true;
    await new Promise((done) => setTimeout(done, Math.max(0, 1000 - (performance.now() - last))));
    try {
      const fresh = await newer(`/builds/${id}?part=live`);
      swap(fresh, ["head", "timeline", "layers", "changes", "events"]);
      for (const now of fresh.querySelectorAll("#log > details.step")) {
        const old = document.getElementById(now.id);
        if (old) {
          if (!now.hidden) old.hidden = false;
          old.querySelector("summary").replaceChildren(...document.adoptNode(now.querySelector("summary")).childNodes);
          continue;
        }
        const node = document.adoptNode(now), at = document.querySelector("#log > p:last-child");
        at.before(node);
        show(node);
      }
      document.title = fresh.title;
    } catch { /* the stream says when it is there again */ }
    last = performance.now();
    busy = false;
    if (wanted) { wanted = false; refresh(); }
  };
  const stream = new EventSource(`/builds/${id}/stream`);
  let states = "";
  stream.addEventListener("progress", (e) => {
    const told = JSON.parse(e.data);
    for (const s of told.steps) {
      lines.set(s.n, s.lines);
      logs.get(s.n)?.extend(s.lines);
      const count = document.querySelector(`#s${s.n} .count`);
      if (!count || !s.lines) continue;
      count.textContent = s.lines === 1 ? "1 line" : `${s.lines} lines`;
      document.getElementById(`s${s.n}`).hidden = false;
    }
    say(told.say);
    const now = told.status + told.say + told.steps.map((s) => s.state).join();
    if (now !== states || told.ended) { states = now; refresh(); }
    if (told.ended) { stream.close(); clearInterval(tick); }
  });
  const tick = setInterval(refresh, 5000); // bars of what goes on grow
}

const list = document.getElementById("list");
if (list) {
  let due = null;
  const refresh = () => {
    due ??= setTimeout(async () => {
      try { swap(await newer(location.href), ["list"]); } catch { /* next time */ }
      due = null;
    }, 700);
  };
  const stream = new EventSource("/events");
  for (const what of ["requested", "started", "finished"]) stream.addEventListener(`dev.kilnhook.build.${what}.v1`, refresh);
  setInterval(() => {
    const live = document.getElementById("list").dataset.live === "true";
    if (!document.hidden && (live || stream.readyState === EventSource.CLOSED)) refresh();
  }, 5000);
}
