// Prints what a browser says of a page at several widths: horizontal overflow, errors, requests that leave the page.
// node look_at_page.mjs MODULES PAGE WIDTH...; MODULES: a node_modules folder with puppeteer-core and @sparticuz/chromium
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";
const [modules, page, ...widths] = process.argv.slice(2);
const require = createRequire(path.join(modules, "any.js"));
const load = async (name) => (await import(pathToFileURL(require.resolve(name)).href)).default;
const chromium = await load("@sparticuz/chromium");
const puppeteer = await load("puppeteer-core");
const browser = await puppeteer.launch({
  args: chromium.args, executablePath: await chromium.executablePath(), headless: "shell",
});
const tab = await browser.newPage();
const found = { overflow: {}, errors: [], requests: [] };
tab.on("console", (message) => message.type() === "error" && found.errors.push(message.text()));
tab.on("pageerror", (error) => found.errors.push(String(error)));
tab.on("request", (request) => /^(file|data):/.test(request.url()) || found.requests.push(request.url()));
for (const width of widths) {
  await tab.setViewport({ width: Number(width), height: 900 });
  await tab.goto(pathToFileURL(page).href);
  found.overflow[width] = await tab.evaluate(
    () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
  );
}
console.log(JSON.stringify(found));
await browser.close();
