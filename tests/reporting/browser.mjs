// Opens a report in headless Chromium and prints what happened as JSON: node browser.mjs REPORT.html [PICTURE]
// CHROMIUM is the browser; NODE_PATH has puppeteer-core.
import { createRequire } from 'node:module';
const puppeteer = createRequire(`${process.env.NODE_PATH}/x.js`)('puppeteer-core');
const [file, picture] = process.argv.slice(2);
const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM, headless: 'shell', defaultViewport: { width: 1400, height: 1000 },
  args: ['--no-sandbox', '--disable-dev-shm-usage', '--no-zygote', '--single-process'],
});
const page = await browser.newPage();
const seen = { errors: [], requests: [] };
page.on('console', (message) => { if (['error', 'warn'].includes(message.type())) seen.errors.push(message.text()); });
page.on('pageerror', (error) => seen.errors.push(error.message));
page.on('request', (request) => { if (!/^(data|blob):/.test(request.url())) seen.requests.push(request.url()); });
const start = Date.now();
await page.goto(`file://${file}`);
await page.waitForFunction('document.body.dataset.ready === "true"', { timeout: 0 });
seen.milliseconds = Date.now() - start;
// A figure is drawn when it comes near the window.
const sections = ['tradeoff', 'against', 'heat', 'curves', 'parts', 'images'];
seen.figures = {};
for (const section of sections) {
  await page.evaluate((id) => document.getElementById(id).scrollIntoView(), section);
  const drawn = (id) => [...document.querySelectorAll(`#${id} .chart`)].every((chart) => !chart.offsetParent || chart.querySelector('svg.marks, .hint'));
  await page.waitForFunction(drawn, { timeout: 0 }, section);
  const pictures = () => document.getElementById('images').classList.contains('none') || document.querySelector('#strips img') !== null;
  if (section === 'images') await page.waitForFunction(pictures, { timeout: 0 });
  seen.figures[section] = await page.evaluate((id) => document.querySelectorAll(`#${id} svg.marks, #${id} img`).length, section);
}
const rows = (column) => page.evaluate((number) => [...document.querySelectorAll('#rows tbody tr')].map((row) => row.cells[number].textContent), column);
seen.rows = await rows(0);
const heading = async (text) => page.evaluate((wanted) => {
  const cells = [...document.querySelectorAll('#rows thead tr:first-child th')];
  const number = cells.findIndex((cell) => cell.textContent.includes(wanted));
  cells[number].querySelector('button').click();
  return number;
}, text);
const shown = (text) => page.waitForFunction((wanted) => document.getElementById('count').textContent.startsWith(`${wanted} of`), { timeout: 0 }, text);
const settled = () => page.evaluate(() => new Promise((done) => setTimeout(done, 300)));
const fid = await heading('FID');
await settled();
seen.ascending = await rows(fid);
await heading('FID');
await settled();
seen.descending = await rows(fid);
await page.type('#query', seen.rows.at(-1).split(' ')[0]);
await settled();
seen.filtered = await rows(0);
seen.count = await page.evaluate(() => document.getElementById('count').textContent);
await page.click('#reset');
await shown(seen.rows.length);
await page.evaluate(() => document.querySelector('#rows tbody tr').click());
seen.drawer = await page.evaluate(() => document.getElementById('drawer').textContent);
if (picture) {
  await page.keyboard.press('Escape');
  await page.screenshot({ path: picture, fullPage: true });
}
console.log(JSON.stringify(seen));
await browser.close();
