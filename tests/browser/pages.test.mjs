// The two pages in Chromium: two tabs of the demo share everything, the dashboard shows live numbers and documents. Over
// TLS and with compressed WebSockets, so that a real browser speaks both. Screenshots go to the folder SCREENSHOTS.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import puppeteer from "puppeteer-core";
import WebSocket from "ws";

const axe = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
const folder = process.env.SCREENSHOTS;
const patience = { timeout: 60_000 };
let server;
let origin;
let browser;
const complaints = [];

function start(environment) {
  const child = spawn(process.env.SYNCKIT_SERVER_BINARY, ["--shards", "2"], {
    env: { PATH: process.env.PATH, HOST: "127.0.0.1", PORT: "0", WS_COMPRESSION: "on", ...environment },
    stdio: ["ignore", "pipe", "inherit"],
  });
  return new Promise((resolve, reject) => {
    let log = "";
    child.stdout.on("data", (data) => {
      log += data;
      const port = /listening on 127\.0\.0\.1:(\d+)/.exec(log);
      if (port) resolve({ child, port: Number(port[1]) });
    });
    child.on("exit", (code) => reject(new Error(`the server ended with ${code}:\n${log}`)));
  });
}

// A tab whose errors and foreign requests are remembered.
async function tab(path, settings = {}) {
  const page = await browser.newPage();
  await page.setViewport({ width: settings.width ?? 1280, height: settings.height ?? 860 });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: settings.scheme ?? "light" }]);
  page.on("console", (message) => {
    if (["error", "warn"].includes(message.type())) complaints.push(`${path}: ${message.text()}`);
  });
  page.on("pageerror", (error) => complaints.push(`${path}: ${error}`));
  page.on("request", (request) => {
    const url = request.url();
    if (!url.startsWith(origin) && !url.startsWith("data:")) complaints.push(`${path}: asked for ${url}`);
  });
  await page.goto(`${origin}${path}`, { waitUntil: "domcontentloaded" });
  await page.bringToFront();
  return page;
}

async function shot(page, name) {
  // Only what is in front is painted.
  await page.bringToFront();
  if (folder) await page.screenshot({ path: `${folder}/${name}.png`, fullPage: true });
}

async function accessible(page, name) {
  // Past the page's own policy, which rightly forbids it.
  const source = (await import("node:fs")).readFileSync(axe, "utf8");
  await page.evaluate(source);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  const found = violations.map((one) => `${one.id} (${one.impact}): ${one.nodes.map((node) => node.html).join(" | ")}`);
  assert.deepEqual(found, [], `${name} is accessible`);
}

const textOf = (page, selector) => page.$eval(selector, (element) => element.textContent);
const until = (page, condition, ...values) => page.waitForFunction(condition, { ...patience, polling: 50 }, ...values);

before(async () => {
  if (folder) mkdirSync(folder, { recursive: true });
  const { TLS_CERT, TLS_KEY, REDIS_URL } = process.env;
  server = await start({ TLS_CERT, TLS_KEY, REDIS_URL });
  origin = `https://127.0.0.1:${server.port}`;
  browser = await puppeteer.launch({
    executablePath: process.env.CHROMIUM,
    args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--ignore-certificate-errors"],
  });
});

after(async () => {
  await browser?.close();
  server?.child.removeAllListeners("exit");
  server?.child.kill();
});

test("two tabs of the demo share list, text and pointers", patience, async () => {
  const first = await tab("/demo");
  await until(first, () => document.querySelector("#status").dataset.state === "open");
  const second = await tab("/demo", { scheme: "dark" });
  await until(second, () => document.querySelectorAll("#people li").length === 2);

  await second.type("#todo-new", "Water the plants\n");
  await second.type("#todo-new", "Answer the letter\n");
  await until(first, () => document.querySelectorAll("#todos li").length === 2);
  await first.bringToFront();
  await first.click("#todos li:first-child input");
  await until(second, () => document.querySelectorAll("#todos .done").length === 1);

  await first.type("#text", "The quick fox");
  await until(second, () => document.querySelector("#text").value === "The quick fox");
  await second.bringToFront();
  // Into the middle of what the other wrote in one go, while the other goes on at the end.
  await second.focus("#text");
  await second.$eval("#text", (area) => area.setSelectionRange(10, 10));
  await second.keyboard.type("brown ");
  await first.bringToFront();
  await first.focus("#text");
  await first.keyboard.press("End");
  await first.keyboard.type(" jumps");
  const whole = "The quick brown fox jumps";
  for (const page of [first, second]) {
    await until(page, (text) => document.querySelector("#text").value === text, whole).catch(async () => {
      assert.equal(await page.$eval("#text", (area) => area.value), whole);
    });
  }
  await first.keyboard.type(" – naïve 👩‍👩‍👧 café");
  await first.keyboard.press("Backspace");
  const later = `${whole} – naïve 👩‍👩‍👧 caf`;
  await until(second, (text) => document.querySelector("#text").value === text, later);

  await first.mouse.move(420, 420);
  await first.mouse.move(520, 380);
  await second.bringToFront();
  await until(second, () => document.querySelector(".cursor span") !== null);

  const late = await tab("/demo", { width: 390, height: 844 });
  await until(late, (text) => document.querySelector("#text").value === text, later);
  await accessible(first, "the demo");
  await accessible(second, "the dark demo");
  await shot(first, "demo-light");
  await shot(second, "demo-dark");
  await shot(late, "demo-phone");
  await second.bringToFront();
  await second.click("#todos li:last-child button");
  await until(late, () => document.querySelectorAll("#todos li").length === 1);
  await late.close();
  await until(second, () => document.querySelectorAll("#people li").length === 2);
});

test("the dashboard shows what happens", patience, async () => {
  const demo = (await browser.pages()).find((page) => page.url().endsWith("/demo"));
  const page = await tab("/dashboard");
  await until(page, () => document.querySelector("#status").dataset.state === "open");
  const connections = () => page.$eval("#tiles dd", (element) => Number(element.textContent));
  const begun = await connections();
  assert.ok(begun >= 2, `${begun} connections`);

  const socket = new WebSocket(`wss://127.0.0.1:${server.port}/ws`, { rejectUnauthorized: false });
  await new Promise((resolve, reject) => socket.on("open", resolve).on("error", reject));
  assert.match(socket.extensions, /permessage-deflate/);
  await until(page, (count) => Number(document.querySelector("#tiles dd").textContent) === count, begun + 1);
  // Movement in the charts.
  let turn = 0;
  const mover = setInterval(() => socket.send(JSON.stringify({ type: "ping", id: `p${(turn += 1)}`, timestamp: 1 })), 100);
  await until(page, () => document.querySelectorAll("#charts path").length === 9 &&
    document.querySelector("#charts section:nth-child(2) path").getAttribute("d").split("L").length >= 5);
  clearInterval(mover);
  assert.notEqual(await textOf(page, "#charts section:nth-child(2) b"), "0/s");

  // Backends by name, and how they are.
  await until(page, () => /Redis ?Connected/.test(document.querySelector("#health").textContent));
  assert.match(await textOf(page, "#health"), /ServerTakes connections.*DatabaseNone: memory only.*Other nodes0;/);

  await page.type("#search", "demo-tod\n");
  await until(page, () => document.querySelector("#found").textContent.startsWith("1 found"));
  await page.click("#documents button");
  await until(page, () => !document.querySelector("#document").hidden);
  assert.equal(await textOf(page, "#document-title"), "demo-todos-main");
  const facts = await textOf(page, "#document-facts");
  for (const words of ["Water the plants", "Last writes", "Subscribers"]) assert.ok(facts.includes(words), facts);
  await page.$eval("#charts details", (details) => details.setAttribute("open", ""));
  await until(page, () => document.querySelectorAll("#charts tbody tr").length > 0);
  await accessible(page, "the dashboard");
  await page.$eval("#charts details", (details) => details.removeAttribute("open"));
  await shot(page, "dashboard-light");
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "dark" }]);
  await accessible(page, "the dark dashboard");
  await shot(page, "dashboard-dark");
  await page.setViewport({ width: 390, height: 844 });
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "fits a phone");
  await shot(page, "dashboard-phone");

  // With the keyboard alone.
  await page.focus("#search");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await page.click("#pause");
  await until(page, () => document.querySelector("#status-text").textContent === "Paused");
  socket.close();
  assert.ok(demo);
});

test("nobody complained, and nothing outside was asked for", () => assert.deepEqual(complaints, []));

test("in production there is no demo, and the numbers want an administrator's token", patience, async () => {
  const production = await start({ ENVIRONMENT: "production", JWT_SECRET: "correct horse battery staple, and some more", CORS_ORIGINS: "https://app.example" });
  try {
    const base = `http://127.0.0.1:${production.port}`;
    assert.equal((await fetch(`${base}/demo`)).status, 404);
    assert.equal((await fetch(`${base}/dashboard`)).status, 200);
    for (const path of ["data", "documents", "document?id=x"]) {
      assert.equal((await fetch(`${base}/dashboard/${path}`)).status, 401, path);
    }
    const page = await browser.newPage();
    await page.goto(`${base}/dashboard`);
    await until(page, () => !document.querySelector("#login").hidden);
    await page.type("#token", "nonsense\n");
    await until(page, () => document.querySelector("#login-error").textContent !== "");
    await accessible(page, "the login");
    await shot(page, "dashboard-login");
    const local = await fetch(`https://127.0.0.1:${server.port}/dashboard/data`.replace("https", "http")).catch(() => null);
    assert.equal(local?.status, 400, "plain HTTP at a TLS port is told so");
  } finally {
    production.child.removeAllListeners("exit");
    production.child.kill();
  }
});
