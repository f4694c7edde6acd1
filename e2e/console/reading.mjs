// Without JavaScript everything can be read, and done by forms.
import { assert, input, run } from "./browser.mjs";

await run(async (open) => {
  const page = await open({ javaScriptEnabled: false });
  await page.goto("/");
  await page.locator("select[name=outcome]").selectOption("success");
  await page.getByRole("button", { name: "Show" }).click();
  await page.locator(`a[href="/builds/${input.id}"]`).click();
  const text = await page.locator("main").textContent();
  for (const want of ["tick 20", "docker pull", "/app", "Layers", "Timeline"]) assert(text.includes(want), `the page has ${want}`);
  assert(await page.locator("#timeline rect").count() > 3, "the timeline is drawn");
  await page.getByRole("link", { name: "Look into it" }).first().click();
  assert(/[1-9]\d{3} files with/.test(await page.locator("main").textContent()), "what is in the base is named");
  await page.goto(`/builds/${input.long}`);
  await page.locator("details.step", { hasText: "200000 lines" }).locator("summary").click();
  await page.getByRole("link", { name: "199800 earlier lines" }).click();
  assert((await page.locator(".text").innerText()).includes("line 1 "), "the log begins on its first page");
  await page.getByRole("link", { name: "Last" }).first().click();
  assert((await page.locator(".text").innerText()).includes("line 200000 "), "and ends on its last");
  await page.goto("/trends");
  assert(await page.locator("figure svg rect").count() > 2, "trends have bars");
  await page.goto(`/builds/${input.changed}/files`);
  assert((await page.locator("main").innerText()).includes("/app/large"), "the file that changed is named");
});
