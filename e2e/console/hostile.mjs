// What builds print and are called stays text on every page.
import { assert, input, run } from "./browser.mjs";

await run(async (open) => {
  const page = await open();
  const found = {};
  for (const address of input.pages) {
    const answer = await page.goto(address);
    assert(answer.status() === 200, `${address} answers`);
    const policy = answer.headers()["content-security-policy"];
    assert(policy.includes("default-src 'none'") && !policy.includes("unsafe") && policy.includes("frame-ancestors 'none'"), `the policy is strict: ${policy}`);
    for (const details of await page.locator("details:not([open]) > summary").all()) if (await details.isVisible()) await details.click();
    await page.waitForTimeout(400);
    const injected = await page.evaluate(() => [...document.querySelectorAll("[onload],[onerror],[onclick],[style*=expression],iframe,object,embed,img[src='x'],main script,a[href^='javascript:'],b.evil,[hostile]")].map((el) => el.outerHTML));
    assert(injected.length === 0, `nothing is injected into ${address}: ${injected}`);
    assert(await page.evaluate(() => window.hostile === undefined), "no script of a build ran");
    const text = await page.locator("body").innerText();
    for (const [name, part] of Object.entries(input.texts)) if (text.includes(part)) found[name] = true;
  }
  for (const name of Object.keys(input.texts)) assert(found[name], `the ${name} is shown, as text`);
});
