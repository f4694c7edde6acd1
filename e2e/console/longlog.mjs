// A log of 200,000 lines is scrolled through while the page stays responsive.
import { assert, input, run, until } from "./browser.mjs";

await run(async (open) => {
  const page = await open();
  await page.addInitScript(() => {
    window.tasks = [];
    new PerformanceObserver((list) => { for (const e of list.getEntries()) window.tasks.push(Math.round(e.duration)); }).observe({ type: "longtask", buffered: true });
  });
  const began = Date.now();
  await page.goto(`/builds/${input.id}`);
  const loaded = Date.now() - began;
  const step = page.locator("details.step", { hasText: "200000 lines" });
  await step.locator("summary").click();
  const box = step.locator(".text");
  await until("the end of the log is shown", async () => (await box.innerText()).includes("line 200000 "));
  // Scrolls like somebody with a wheel does, and jumps. A machine that does something
  // else meanwhile may hold up a frame: the best of three goes counts.
  const go = () => box.evaluate(async (el) => {
    window.tasks.length = 0;
    const frames = [];
    let last = performance.now();
    const frame = () => new Promise((done) => requestAnimationFrame(() => { const now = performance.now(); frames.push(now - last); last = now; done(); }));
    await frame();
    frames.length = 0;
    const whole = el.scrollHeight;
    for (let i = 0; i < 150; i++) { el.scrollTop -= 700; await frame(); }
    for (let i = 1; i <= 60; i++) { el.scrollTop = whole * (i * 37 % 60) / 60; await frame(); }
    el.scrollTop = 123_455 * 18;
    for (let i = 0; i < 30; i++) await frame();
    frames.sort((a, b) => b - a);
    return { worst: Math.max(frames[0], ...window.tasks), second: frames[1], frames: frames.length, whole, tasks: window.tasks };
  });
  let seen = await go();
  for (let i = 0; i < 2 && seen.worst >= 200; i++) seen = await go();
  await until("the lines in the middle are shown", async () => (await box.innerText()).includes("line 123456 "));
  const rows = await page.locator("#log .l").count();
  assert(rows < 5000, `the document holds what is near, and not ${rows} lines`);
  assert(seen.worst < 200, `no frame and no task takes 200 ms: ${JSON.stringify(seen)}`);
  // Without a mouse: the box takes the keyboard.
  await box.focus();
  await page.keyboard.press("Home");
  await until("the beginning is shown", async () => /\bline 1 /.test(await box.innerText()));
  return { loaded, rows, ...seen };
});
