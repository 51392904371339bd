// `node shoot.mjs CHROMIUM URL FILE`: a screenshot of a page, and what the page complained of.
import { chromium } from "playwright-core";

const [executablePath, url, path] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    '--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost',
  ],
});
const tab = await browser.newPage({ viewport: { width: 1640, height: 1000 } });
let faults = 0;
tab.on("pageerror", (error) => {
  faults += 1;
  console.error(error.message);
});
await tab.goto(url);
await tab.waitForSelector("#page", { timeout: 60000 });
await tab.waitForTimeout(3000);
await (await tab.$("#page")).screenshot({ path });
await browser.close();
process.exit(faults ? 1 : 0);
