// A running build is cancelled by its button, with the keyboard.
import { input, run, status, until, upload } from "./browser.mjs";

await run(async (open) => {
  const page = await open();
  const id = await upload(page, input.archive, input.name);
  await until("it runs", async () => (await page.locator("#log").innerText()).includes("asleep"));
  await page.locator("#cancel").focus();
  await Promise.all([page.waitForURL(/\/builds\//), page.keyboard.press("Enter")]);
  await until("it is cancelled", async () => (await status(page)) === "cancelled");
  return { id };
});
