// Everything that can be done is reached with Tab and done with Enter.
import { assert, input, run, until } from "./browser.mjs";

const focused = () => {
  const el = document.activeElement;
  if (!el || el === document.body) return "";
  const seen = getComputedStyle(el);
  return `${el.tagName.toLowerCase()} ${el.id || el.getAttribute("name") || ""} ${el.getAttribute("aria-label") || el.innerText?.trim().slice(0, 40) || ""} outline:${seen.outlineStyle}`;
};

async function walk(page, most = 120) {
  const stops = [];
  for (let i = 0; i < most; i++) {
    await page.keyboard.press("Tab");
    const at = await page.evaluate(focused);
    if (!at) break;
    stops.push(at);
  }
  return stops;
}

await run(async (open) => {
  const page = await open();
  await page.goto(`/builds/${input.id}`);
  await page.keyboard.press("Tab");
  assert((await page.evaluate(focused)).includes("Skip to content"), "the first stop skips to the content");
  await page.keyboard.press("Enter");
  assert(await page.evaluate(() => document.activeElement.id === "main"), "and does");
  await page.goto("about:blank");
  await page.goto(`/builds/${input.id}`);
  const stops = await walk(page);
  for (const want of ["Builds", "Trends", "Upload", "rebuild", "Timeline of steps", "as a table", "The log in pages", "Layers of the image", "What triggered it", "What it emitted", "Copy"]) {
    assert(stops.some((s) => s.includes(want)), `"${want}" is reached with Tab: ${stops.join(" | ")}`);
  }
  for (const s of stops) assert(!s.endsWith("outline:none"), `where the focus is can be seen at ${s}`);
  const names = await page.evaluate(() => [...document.querySelectorAll("button, a[href], input:not([type=hidden]), select, summary")].filter((el) => !(el.textContent?.trim() || el.getAttribute("aria-label") || el.labels?.length)).map((el) => el.outerHTML));
  assert(names.length === 0, `everything has a name: ${names}`);
  const heads = await page.evaluate(() => [...document.querySelectorAll("table")].filter((t) => t.querySelectorAll("thead th[scope=col]").length === 0).length);
  assert(heads === 0, "every table has headers");
  for (const landmark of ["banner", "main", "navigation"]) assert(await page.getByRole(landmark).count() > 0, `there is a landmark ${landmark}`);

  // A fold opens and closes, and the build is built again, without a mouse.
  await page.locator("#emitted > summary").focus();
  await page.keyboard.press("Enter");
  assert(await page.locator("#event-json").isVisible(), "Enter unfolds");
  await page.locator("#rebuild").focus();
  await Promise.all([page.waitForURL((u) => /\/builds\//.test(u.href) && !u.href.includes(input.id)), page.keyboard.press("Enter")]);
  const again = page.url().split("/").pop();
  await until("it is built again", async () => (await page.locator("h1 .status").innerText()) === "success");

  await page.goto("/");
  const list = await walk(page);
  for (const want of ["search", "input q", "select trigger", "select outcome", "input ref", "Show"]) {
    if (want !== "search") assert(list.some((s) => s.includes(want)), `"${want}" of the list is reached: ${list.join(" | ")}`);
  }
  await page.locator("input[name=q]").fill("no-build-is-called-so");
  await page.keyboard.press("Enter");
  await page.waitForURL(/q=no-build/);
  assert((await page.locator("#list").innerText()).includes("No build is like that"), "Enter searches");
  return { stops: stops.length, again };
});
