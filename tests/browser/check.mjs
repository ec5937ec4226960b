// Looks at the public page and the console in a real chromium.
//
//   node check.mjs [--public URL] [--console URL] [--out DIR] [--chromium PATH]
//
// Per page, in light and dark, at 320, 1280 and 1920 pixels: axe (0 violations and 0 incomplete), no sideways scrolling, no
// error in the page's own log, nothing loaded from elsewhere. Then: complete without JavaScript, all by keyboard, sizes.
// Prints one line per fault; exit code 1 if there is any. Screenshots go to --out.
import { readFileSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { get } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { brotliDecompressSync } from "node:zlib";
import puppeteer from "puppeteer-core";

const options = Object.fromEntries(process.argv.slice(2).flatMap((word, i, all) => (word.startsWith("--") ? [[word.slice(2), all[i + 1]]] : [])));
if (!options.public && !options.console) {
  console.error("usage: node check.mjs [--public URL] [--console URL] [--out DIR] [--chromium PATH]");
  process.exit(64);
}
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
// Where there is room, a language changes no layout: one of them stands for all at 1920 pixels, save with BCP_LONG=1.
const WIDTHS = [320, 1280, 1920], widthsOf = lang => (lang === "de" || process.env.BCP_LONG === "1" ? WIDTHS : [320, 1280]);
const SCHEMES = ["light", "dark"], LANGS = ["nl", "fr", "de", "en"];
const PAGE_LIMIT_BYTES = 14 * 1024, LOAD_MS = 20_000, TABS_MAX = 200;

const faults = [], figures = { pages: 0, axe: 0 };
const fault = (where, what) => { faults.push(`${where}: ${what}`); console.log(`FAULT ${where}: ${what}`); };
const profile = mkdtempSync(join(tmpdir(), "bcp-browser-"));
if (options.out) mkdirSync(options.out, { recursive: true });
const browser = await puppeteer.launch({
  executablePath: options.chromium ?? process.env.CHROMIUM ?? "/usr/bin/chromium",
  userDataDir: profile,
  // A busy machine starts a browser slowly; that is not what is checked here.
  timeout: 120_000,
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});

async function open(url, { width = 1280, scheme = "light", script = true } = {}) {
  const page = await browser.newPage();
  await page.setViewport({ width, height: 900 });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }, { name: "prefers-reduced-motion", value: "reduce" }]);
  await page.setJavaScriptEnabled(script);
  // So that a test can end the stream as a dead server would.
  await page.evaluateOnNewDocument(() => {
    window.streams = [];
    window.EventSource = class extends EventSource { constructor(...args) { super(...args); streams.push(this); } };
  });
  const where = `${url} ${width} ${scheme}${script ? "" : " no script"}`, origin = new URL(url).origin, asked = [];
  page.on("console", message => { if (message.type() === "error") fault(where, `log: ${message.text()}`); });
  page.on("pageerror", error => fault(where, `script: ${error.message}`));
  page.on("request", request => {
    const target = new URL(request.url());
    asked.push({ url: request.url(), method: request.method() });
    if (target.protocol !== "data:" && target.origin !== origin) fault(where, `asks ${target.href}`);
  });
  // The console's stream never ends, so "no more traffic" is not waited for.
  await page.goto(url, { waitUntil: "load", timeout: LOAD_MS });
  return { page, where, asked };
}

async function axe(page, where) {
  // The page's own policy forbids foreign scripts; this one comes in over the debugger, which is not the page.
  const result = await page.evaluate(`${AXE}; axe.run(document, { resultTypes: ["violations", "incomplete"] })`);
  figures.axe += 1;
  for (const kind of ["violations", "incomplete"]) {
    for (const item of result[kind]) fault(where, `axe ${kind}: ${item.id} at ${item.nodes.slice(0, 3).map(node => node.target.join(" ")).join(", ")} (${item.nodes.length})`);
  }
}

async function look(url, name, widths = WIDTHS) {
  for (const width of widths) for (const scheme of SCHEMES) {
    const { page, where } = await open(url, { width, scheme });
    await page.evaluate(() => document.fonts.ready.then(() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done())))));
    const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    if (over > 0) fault(where, `${over} pixels wider than the screen`);
    await page.evaluate(() => document.querySelectorAll("details").forEach(details => (details.open = true)));
    await axe(page, where);
    if (options.out) await page.screenshot({ path: join(options.out, `${name}-${width}-${scheme}.png`), fullPage: true });
    await page.close();
    figures.pages += 1;
  }
}

// Tab through everything: each stop is visible and marked, every link and button is reached.
async function walk(url) {
  const { page, where } = await open(url);
  const wanted = await page.evaluate(() => {
    const seen = element => element.getClientRects().length > 0 && !element.closest("[hidden],dialog:not([open])");
    return [...document.querySelectorAll("a[href],button,input,summary,[tabindex='0']")].filter(seen).map((element, i) => (element.dataset.walk = i)).length;
  });
  const reached = new Set();
  for (let i = 0; i < Math.min(wanted + 3, TABS_MAX); i += 1) {
    await page.keyboard.press("Tab");
    const stop = await page.evaluate(() => {
      const element = document.activeElement;
      if (!element || element === document.body) return null;
      const style = getComputedStyle(element);
      return { id: element.dataset.walk, marked: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0, text: element.textContent.trim().slice(0, 30) };
    });
    if (!stop) continue;
    if (!stop.marked) fault(where, `the focus is not to be seen on "${stop.text}"`);
    reached.add(stop.id);
  }
  if (reached.size < Math.min(wanted, TABS_MAX)) fault(where, `only ${reached.size} of ${wanted} are reached with Tab`);
  await page.close();
}

const links = (page, pattern) => page.evaluate(source => [...new Set([...document.querySelectorAll("a[href]")].map(a => a.href).filter(href => new RegExp(source).test(href)))], pattern);
const size = url => new Promise((done, failed) => get(url, { headers: { "accept-encoding": "br" } }, answer => {
  const parts = [];
  answer.on("data", part => parts.push(part));
  answer.on("end", () => done({ status: answer.statusCode, headers: answer.headers, body: Buffer.concat(parts) }));
}).on("error", failed));

async function publicPages(base) {
  for (const lang of LANGS) {
    const home = `${base}/${lang}/`, answer = await size(home);
    if (answer.body.length > PAGE_LIMIT_BYTES) fault(home, `${answer.body.length} bytes compressed`);
    console.log(`${home}: ${answer.body.length} bytes compressed, ${brotliDecompressSync(answer.body).length} plain`);
    for (const header of ["content-security-policy", "x-content-type-options", "referrer-policy", "etag"]) if (!answer.headers[header]) fault(home, `no ${header}`);
    const { page, where, asked } = await open(home, { script: false });
    const loads = asked.filter(request => request.method === "GET" && request.url.startsWith("http"));
    if (loads.length !== 1) fault(where, `${loads.length} requests for one page`);
    const text = await page.evaluate(() => document.body.innerText);
    if (!(await page.$("h1")) || !(await page.$("main .rows .st")) || text.length < 300) fault(where, "is not complete");
    if ((await page.$eval("html", html => html.lang)) !== lang) fault(where, "has another language");
    const found = { service: await links(page, `/${lang}/service/`), procedure: await links(page, `/${lang}/procedure/.`), incident: await links(page, `/${lang}/incident/`), work: await links(page, `/${lang}/planned/.`) };
    await page.close();
    await look(home, `public-${lang}`, widthsOf(lang));
    const procedures = found.procedure.length ? found.procedure : found.service.map(href => href.replace("/service/", "/procedure/"));
    const others = { service: found.service[0], steps: procedures[0], incident: found.incident[0], work: found.work[0] };
    for (const name of ["planned", "procedure", "history", "accessibility", "api"]) others[name] = `${home}${name}/`;
    for (const [name, url] of Object.entries(others)) if (url) await look(url, `public-${lang}-${name}`, widthsOf(lang));
    await walk(home);
  }
  // The one script: a page whose time is over says so.
  const { page, where } = await open(`${base}/en/`);
  await page.evaluate(() => { document.documentElement.dataset.until = "1"; });
  const script = await page.$eval("body > script", element => element.textContent);
  await page.evaluate(script);
  await page.waitForFunction("document.documentElement.className === 'x'", { timeout: 5000 }).catch(() => fault(where, "an expired copy does not say so"));
  if (await page.$(".st.up")) fault(where, "an expired copy is green");
  await page.close();
}

async function consolePages(base) {
  const { page } = await open(`${base}/`, { script: false });
  const bare = await page.evaluate(() => document.body.innerText);
  for (const word of ["Now", "Tickets", "Services", "Sites", "Timeline", "quorum"]) if (!bare.includes(word)) fault(`${base}/ no script`, `has no ${word}`);
  const ticket = (await links(page, "/tickets/"))[0];
  const service = (await links(page, "/services/"))[0];
  if (/last news\s*–/.test(bare)) fault(`${base}/ no script`, "does not say when its news is from");
  await page.goto(`${base}/devices`, { waitUntil: "load", timeout: LOAD_MS });
  const device = (await links(page, "/devices/"))[0];
  await page.close();
  const pages = { now: `${base}/`, devices: `${base}/devices`, device, ticket, service, timeline: `${base}/timeline` };
  for (const [name, url] of Object.entries(pages)) {
    if (!url) { fault(base, `no ${name} is linked`); continue; }
    await look(url, `console-${name}`);
  }
  await walk(`${base}/devices`);
  await keys(base);
  await history(device);
  await stale(base);
}

async function keys(base) {
  const { page, where } = await open(`${base}/`);
  await page.keyboard.press("j");
  if (!(await page.evaluate(() => Boolean(document.activeElement.closest("[data-row]"))))) fault(where, "j goes to no row");
  await page.keyboard.press("?");
  if (!(await page.$("#keys[open]"))) fault(where, "? opens no help");
  else await axe(page, `${where} help`);
  await page.keyboard.press("Escape");
  await page.keyboard.press("/");
  if ((await page.evaluate(() => document.activeElement.id)) !== "search") fault(where, "/ goes to no search");
  await page.evaluate(() => document.activeElement.blur());
  await page.keyboard.press("g");
  await Promise.all([page.waitForNavigation({ waitUntil: "load", timeout: LOAD_MS }), page.keyboard.press("d")]).catch(() => {});
  if (!page.url().endsWith("/devices")) fault(where, "g d does not go to the devices");
  const row = await page.$("[data-row] a");
  if (row) {
    await page.keyboard.press("j");
    await Promise.all([page.waitForNavigation({ waitUntil: "load", timeout: LOAD_MS }), page.keyboard.press("Enter")]).catch(() => {});
    if (!/\/devices\/./.test(page.url())) fault(where, "Enter does not open the row");
  }
  await page.close();
}

async function history(device) {
  if (!device) return;
  const { page, where } = await open(device);
  const point = await page.$("[data-plot]");
  if (point) {
    await point.focus();
    await page.keyboard.press("Enter");
    await page.waitForSelector("#plot-body .plot, #plot-body .empty, #plot-body .alert", { timeout: 10_000 }).catch(() => fault(where, "no plot comes"));
    await page.waitForFunction("!document.querySelector('#plot-body').textContent.startsWith('Loading')", { timeout: 10_000 }).catch(() => {});
    const trouble = await page.$eval("#plot-body", body => body.querySelector(".alert")?.textContent ?? "");
    if (trouble) fault(where, trouble);
    await axe(page, `${where} plot`);
    if (options.out) await page.screenshot({ path: join(options.out, "console-plot.png"), fullPage: true });
  }
  await page.close();
}

// Without news for 5 s the whole screen says so; with news it does not.
async function stale(base) {
  const { page, where } = await open(`${base}/`);
  await new Promise(done => setTimeout(done, 6500));
  if (await page.$("body.is-stale")) fault(where, "is stale although the stream runs");
  await page.evaluate(() => streams.forEach(stream => stream.close()));
  await page.waitForSelector("body.is-stale", { timeout: 8000 }).catch(() => fault(where, "does not turn stale without news"));
  if (await page.$("body.is-stale")) {
    await axe(page, `${where} stale`);
    if (options.out) await page.screenshot({ path: join(options.out, "console-stale.png") });
  }
  await page.close();
}

try {
  if (options.public) await publicPages(options.public.replace(/\/$/, ""));
  if (options.console) await consolePages(options.console.replace(/\/$/, ""));
} catch (error) {
  fault("check", error.stack);
} finally {
  await browser.close();
  rmSync(profile, { recursive: true, force: true });
}
console.log(`${figures.pages} screens, ${figures.axe} axe runs, ${faults.length} faults`);
process.exit(faults.length ? 1 : 0);
