// Opens pages in Chromium for a scenario, and fails it for whatever a page must never
// do: open a dialog, break its policy, load from elsewhere, or throw.
import { chromium } from "playwright-core";

export const input = JSON.parse(process.env.KILN_SCENARIO ?? "{}");

// run opens a browser, hands a function that makes pages to the scenario, and prints
// what that returns as JSON.
export async function run(scenario) {
  const browser = await chromium.launch({ executablePath: input.chromium, args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"] });
  const wrong = [];
  try {
    const open = async (options = {}) => {
      const context = await browser.newContext({ baseURL: input.url, viewport: { width: 1280, height: 900 }, reducedMotion: "reduce", ...options });
      context.setDefaultTimeout(30_000);
      const page = await context.newPage();
      page.on("dialog", (d) => { wrong.push(`dialog: ${d.message()}`); d.dismiss(); });
      page.on("pageerror", (err) => wrong.push(`error: ${err.message}`));
      page.on("console", (m) => { if (m.type() === "error" && !/401|403|404|409|413/.test(m.text())) wrong.push(`console: ${m.text()}`); });
      page.on("request", (r) => { if (!r.url().startsWith(input.url) && !/^(data|blob):/.test(r.url())) wrong.push(`request to ${r.url()}`); });
      return page;
    };
    const result = await scenario(open);
    if (wrong.length) throw new Error(wrong.join("\n"));
    console.log(JSON.stringify(result ?? {}));
  } finally {
    await browser.close();
  }
}

export function assert(ok, what) {
  if (!ok) throw new Error(`not so: ${what}`);
}

// until waits for something to become true.
export async function until(what, check, patience = 60_000) {
  for (const end = Date.now() + patience; ;) {
    const got = await check();
    if (got) return got;
    if (Date.now() > end) throw new Error(`it did not happen: ${what}`);
    await new Promise((done) => setTimeout(done, 100));
  }
}

export const status = (page) => page.locator("h1 .status").innerText();

// upload sends an archive through the form and returns the id of its build.
export async function upload(page, archive, name, tag = "") {
  await page.goto("/upload");
  await page.getByLabel("Name of the app").fill(name);
  await page.getByLabel("Tag").fill(tag);
  await page.getByLabel("Context").setInputFiles(archive);
  await page.getByRole("button", { name: "Upload and build" }).click();
  await page.waitForURL(/\/builds\/[0-9a-v]{26}$/);
  return page.url().split("/").pop();
}
