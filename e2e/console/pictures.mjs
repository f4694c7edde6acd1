// Takes pictures of the pages, in the dark and by day.
import { assert, input, run, until } from "./browser.mjs";

await run(async (open) => {
  const sizes = {};
  for (const scheme of ["light", "dark"]) {
    for (const [name, address] of Object.entries(input.pages)) {
      const page = await open({ colorScheme: scheme, viewport: { width: 1180, height: input.heights[name] } });
      await page.goto(address);
      await page.waitForTimeout(500);
      if (name === "build") {
        await page.locator("details.step", { hasText: "tick" }).locator("summary").click();
        await page.evaluate(() => scrollTo(0, 0));
        await until("the log is there", async () => (await page.locator("#log .l").count()) > 5);
      }
      const bright = await page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor.match(/\d+/g).map(Number).reduce((a, b) => a + b));
      assert(scheme === "light" ? bright > 600 : bright < 150, `${scheme} is ${bright}`);
      const path = `${input.dir}/${name}-${scheme}.png`;
      const png = await page.screenshot({ path, fullPage: false });
      sizes[`${name}-${scheme}.png`] = png.length;
      await page.context().close();
    }
  }
  return sizes;
});
