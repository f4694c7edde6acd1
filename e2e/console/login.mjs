// Who has the token gets in, by a cookie that scripts do not see; who has not stays out.
import { assert, input, run, until, status, upload } from "./browser.mjs";

await run(async (open) => {
  const page = await open();
  await page.goto("/trends");
  assert(page.url().includes("/login?to=%2Ftrends"), "one is asked to log in");
  await page.getByLabel("Token").fill("guess");
  await page.getByRole("button", { name: "Log in" }).click();
  assert((await page.locator("main").innerText()).includes("not a token"), "a wrong token is refused");
  await page.getByLabel("Token").fill(input.token);
  await page.keyboard.press("Enter");
  await page.waitForURL(/\/trends$/);
  const cookies = await page.context().cookies();
  assert(cookies.length === 1 && cookies[0].httpOnly && cookies[0].sameSite === "Strict" && !cookies[0].value.includes(input.token), "the cookie is HttpOnly, Strict, and not the token");
  await upload(page, input.archive, "hidden");
  await until("it is built", async () => (await status(page)) === "success");
  await page.getByRole("button", { name: "Log out" }).click();
  await page.goto("/");
  assert(page.url().includes("/login"), "after that one is out");
});
