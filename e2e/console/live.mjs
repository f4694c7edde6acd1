// An upload through the page's own form is followed to its end.
import { assert, input, run, status, until, upload } from "./browser.mjs";

await run(async (open) => {
  const page = await open();
  const id = await upload(page, input.archive, input.name, "shown");
  const log = page.locator("#log");
  await until("a line of the log is there while the build runs", async () => (await log.innerText()).includes("tick 2") && (await status(page)) === "running");
  assert(await page.locator("#timeline rect.p-run.open").count() > 0, "the timeline has a bar for the RUN that goes on");
  assert(await page.locator("#cancel").count() === 1, "a running build can be cancelled");
  assert(/^Build running, \d+ steps done: .*RUN/.test(await page.locator("#say").textContent()), `listeners are told what runs: ${await page.locator("#say").textContent()}`);
  const before = await page.locator("#log .l").count();
  await until("the log grows", async () => (await page.locator("#log .l").count()) > before || (await status(page)) === "success");
  // Nothing is loaded again by hand: the page follows by itself.
  await until("the build succeeds", async () => (await status(page)) === "success", 90_000);
  await until("its event is shown", async () => (await page.locator("#event-json").count()) === 1);
  assert(await page.locator("#cancel").count() === 0 && await page.locator("#rebuild").count() === 1, "it can be built again, and not cancelled");
  const kinds = await page.locator("#timeline rect").evaluateAll((all) => [...new Set(all.map((r) => r.getAttribute("class").split(" ")[0]))].sort());
  for (const kind of ["p-copy", "p-extract", "p-layer", "p-load", "p-pull", "p-push", "p-run", "p-snapshot"]) {
    if (kind === "p-pull" || kind === "p-extract") continue; // the base may be there from a build before
    assert(kinds.includes(kind), `the timeline has ${kind} among ${kinds}`);
  }
  const pull = await page.locator("#pull").innerText();
  assert(/^docker pull 127\.0\.0\.1:\d+\/\S+@sha256:[0-9a-f]{64}$/.test(pull), `"${pull}" can be copied`);
  const event = JSON.parse(await page.locator("#event-json").textContent());
  assert(event.imagedigest === pull.split("@")[1], "the event has the digest");
  assert(JSON.parse(await page.locator("#change-json").textContent()).kind === "object", "the change that triggered it is shown");
  const green = page.locator("#log .fg2").first();
  assert((await green.evaluate((el) => getComputedStyle(el).color)) !== (await page.locator("#log .l").first().evaluate((el) => getComputedStyle(el).color)), "colours of the terminal are colours");
  await page.locator("#layers details").first().locator("summary").click();
  assert((await page.locator("#layers").innerText()).includes("/app/large"), "the largest files of a layer are named");
  return { id, kinds, text: await page.locator("#head").innerText(), timeline: await page.locator("#timeline").innerText(), layers: await page.locator("#layers").innerText(), changes: await page.locator("#changes").innerText() };
});
