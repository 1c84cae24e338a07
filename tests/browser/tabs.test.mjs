// Two tabs of the demo, each at a node of its own (NODES, two origins): what one does the other sees, and a reload keeps it.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import puppeteer from "puppeteer-core";

const nodes = process.env.NODES.split(",");
const patience = { timeout: 60_000 };
let browser;

const until = (page, condition, ...values) => page.waitForFunction(condition, { ...patience, polling: 50 }, ...values);

async function tab(origin) {
  const page = await browser.newPage();
  await page.goto(`${origin}/demo`, { waitUntil: "domcontentloaded" });
  await until(page, () => document.querySelector("#status").dataset.state === "open");
  return page;
}

before(async () => {
  browser = await puppeteer.launch({
    executablePath: process.env.CHROMIUM,
    args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
  });
});

after(() => browser?.close());

test("two tabs at two nodes share a list and a text", { timeout: 120_000 }, async () => {
  assert.equal(nodes.length, 2);
  const [first, second] = [await tab(nodes[0]), await tab(nodes[1])];
  await first.bringToFront();
  await first.type("#todo-new", "Buy a second server\n");
  await second.bringToFront();
  await until(second, () => document.querySelector("#todos").textContent.includes("Buy a second server"));
  await second.type("#text", "from the other node");
  await first.bringToFront();
  await until(first, () => document.querySelector("#text").value === "from the other node");
  await until(first, () => document.querySelectorAll("#people li").length === 2);
  await first.reload({ waitUntil: "domcontentloaded" });
  await until(first, () => document.querySelector("#text").value === "from the other node");
});
