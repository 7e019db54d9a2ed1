// The page of a report: one state (filters, order, axes), and views that follow it.
const data = JSON.parse(document.getElementById('data').textContent);
const $ = (id) => document.getElementById(id);
const byId = new Map([...data.keys, ...data.metrics].map((column) => [column.id, column]));
const state = { query: '', filters: {}, sort: null, columns: new Set(data.shown), visible: data.points.map((p) => p.id) };
const MOST_LINES = 12;

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) made.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null) made.setAttribute(name, value === true ? '' : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without the clipboard's permission, as in some embedded views.
    const area = element('textarea', {});
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
  }
  const before = button.dataset.label ?? button.textContent;
  button.dataset.label = before;
  button.textContent = 'Copied';
  setTimeout(() => { button.textContent = before; }, 1200);
}

// ---- filters

function amount(text, column) {
  const value = parseFloat(text);
  if (Number.isNaN(value)) return null;
  return text.includes('%') || (column.format.endsWith('%') && value > 1) ? value / 100 : value;
}

function matches(point, column, wanted) {
  const value = point.row[column.id];
  const text = String(point.text[column.id] ?? value ?? '').toLowerCase();
  const range = wanted.match(/^(-?[\d.eE+-]+%?)\s*\.\.\s*(-?[\d.eE+-]+%?)$/);
  const bound = wanted.match(/^(<=|>=|<|>|=)\s*(-?[\d.eE+-]+%?)$/);
  if (column.numeric && range) {
    const [low, high] = [amount(range[1], column), amount(range[2], column)];
    return value != null && value >= low && value <= high;
  }
  if (column.numeric && bound) {
    const limit = amount(bound[2], column);
    if (value == null || limit === null) return false;
    return { '<': value < limit, '<=': value <= limit, '>': value > limit, '>=': value >= limit, '=': value === limit }[bound[1]];
  }
  return text.includes(wanted.toLowerCase());
}

function isVisible(point) {
  const text = point.search;
  for (const word of state.query.toLowerCase().split(/\s+/).filter(Boolean)) {
    if (word.startsWith('-') && word.length > 1 ? text.includes(word.slice(1)) : !text.includes(word)) return false;
  }
  return Object.entries(state.filters).every(([id, wanted]) => {
    if (!wanted.trim()) return true;
    if (id === 'name') return `${point.label} ${point.name}`.toLowerCase().includes(wanted.trim().toLowerCase());
    return matches(point, byId.get(id), wanted.trim());
  });
}

function ordered() {
  const points = data.points.filter(isVisible);
  if (state.sort === null) return points;
  const { id, down } = state.sort;
  const value = (point) => (id === 'name' ? point.label : point.row[id]);
  const compare = (a, b) => (typeof a === 'number' && typeof b === 'number' ? a - b : String(a).localeCompare(String(b), 'en', { numeric: true }));
  return [...points].sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    // What was not measured stays last in both directions.
    if (a == null || b == null) return (a == null) - (b == null);
    return (down ? -1 : 1) * compare(a, b);
  });
}

// ---- the table

function shownColumns() {
  return [...data.keys, ...data.metrics].filter((column) => state.columns.has(column.id));
}

// A title that may be broken after its dots and underscores.
function breakable(title) {
  return title.split(/(?<=[._])/).flatMap((part, number) => (number ? [element('wbr'), part] : [part]));
}

function drawHead() {
  const columns = shownColumns();
  const head = (id, title, word) => element('th', { scope: 'col', class: word ? 'word' : '', 'data-id': id },
    element('button', { type: 'button', title: `Sort by ${byId.get(id)?.key ?? title}`, onclick: () => sortBy(id) }, ...breakable(title), element('span', { class: 'arrow' })));
  const filter = (id, title) => element('th', {}, element('input', {
    'aria-label': `Filter ${title}`, 'data-filter': id, value: state.filters[id] ?? '',
    oninput: (event) => { state.filters[id] = event.target.value; changed(); },
  }));
  $('rows').tHead.replaceChildren(
    element('tr', {}, head('name', 'setting', true), ...columns.map((c) => head(c.id, c.title, !c.numeric))),
    element('tr', {}, filter('name', 'setting'), ...columns.map((c) => filter(c.id, c.title))),
  );
  $('rows').style.setProperty('--head', `${$('rows').tHead.rows[0].offsetHeight}px`);
  markSorted();
}

function sortBy(id) {
  const better = byId.get(id)?.better ?? 0;
  const first = better > 0;
  state.sort = state.sort?.id === id ? { id, down: !state.sort.down } : { id, down: first };
  markSorted();
  changed();
}

function markSorted() {
  for (const cell of $('rows').tHead.rows[0].cells) {
    const sorted = state.sort?.id === cell.dataset.id;
    if (sorted) cell.setAttribute('aria-sort', state.sort.down ? 'descending' : 'ascending');
    else cell.removeAttribute('aria-sort');
    cell.querySelector('.arrow').textContent = sorted ? (state.sort.down ? ' ↓' : ' ↑') : '';
  }
}

function bestOf(column, points) {
  const values = points.map((point) => point.row[column.id]).filter((value) => value != null);
  if (!column.better || values.length < 2) return null;
  return column.better > 0 ? Math.max(...values) : Math.min(...values);
}

function drawRows(points) {
  const columns = shownColumns();
  const best = new Map(columns.map((column) => [column.id, bestOf(column, points)]));
  const cell = (point, column) => {
    const text = point.text[column.id] ?? (point.row[column.id] == null ? '–' : String(point.row[column.id]));
    const isBest = best.get(column.id) !== null && point.row[column.id] === best.get(column.id);
    const [value, ...rest] = text.split(/(?= [±(\[])/);
    return element('td', { class: [column.numeric ? '' : 'word', isBest ? 'best' : ''].join(' ').trim() }, value, rest.length ? element('i', {}, rest.join('')) : null);
  };
  $('rows').tBodies[0].replaceChildren(...points.map((point) => element('tr', { 'data-id': point.id, tabindex: 0, onclick: () => pick(point.id), onkeydown: (event) => { if (event.key === 'Enter') pick(point.id); } },
    element('td', { title: point.name }, point.label, point.row.baseline ? element('span', { class: 'badge' }, 'baseline') : null),
    ...columns.map((column) => cell(point, column)))));
}

function tableText(kind) {
  const columns = shownColumns();
  const lines = [['setting', ...columns.map((c) => c.title)],
    ...ordered().map((point) => [point.name, ...columns.map((c) => point.text[c.id] ?? (point.row[c.id] ?? '–'))])].map((line) => line.map(String));
  if (kind === 'csv') return lines.map((line) => line.map((cell) => (/[",\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell)).join(',')).join('\n') + '\n';
  if (kind === 'md') {
    const rows = lines.map((line) => `| ${line.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`);
    rows.splice(1, 0, `|---|${'---:|'.repeat(columns.length)}`);
    return rows.join('\n') + '\n';
  }
  const escape = (cell) => cell.replace(/[\\{}]/g, (sign) => (sign === '\\' ? '\\textbackslash{}' : `\\${sign}`)).replace(/[&%$#_]/g, '\\$&').replaceAll('±', '$\\pm$').replaceAll('×', '$\\times$').replaceAll('σ', '$\\sigma$').replaceAll('–', '--').replaceAll('β', '$\\beta$').replaceAll('Δ', '$\\Delta$').replaceAll('−', '$-$').replace(/[<>]/g, '$$$&$$').replaceAll('^', '\\^{}').replaceAll('~', '\\~{}');
  const rows = lines.map((line) => `${line.map(escape).join(' & ')} \\\\`);
  return ['\\begin{tabular}{l' + 'r'.repeat(columns.length) + '}', '\\toprule', rows[0], '\\midrule', ...rows.slice(1), '\\bottomrule', '\\end{tabular}', ''].join('\n');
}

// ---- charts

// Replaces the placeholders of a template, such as "@x", by what the reader chose.
function filled(template, values) {
  const names = Object.keys(values).sort((a, b) => b.length - a.length);
  const replace = (text) => names.reduce((done, name) => done.replaceAll(name, values[name]), text);
  const walk = (node) => {
    // A string that is a placeholder becomes its value, which may be a number.
    if (typeof node === 'string') return node in values ? values[node] : replace(node);
    if (Array.isArray(node)) return node.map(walk);
    if (node && typeof node === 'object') return Object.fromEntries(Object.entries(node).map(([key, value]) => [key, walk(value)]));
    return node;
  };
  return walk(template);
}

// Without error bars that no point has: an empty layer has no extent.
function withData(spec, rows) {
  if (!spec.layer || !rows) return spec;
  const ends = (layer) => Object.values(layer.encoding ?? {}).map((channel) => channel.field).filter((field) => /_(lo|hi)$/.test(field ?? ''));
  return { ...spec, layer: spec.layer.filter((layer) => ends(layer).every((field) => rows.some((row) => row[field] != null))) };
}

const views = {};
async function draw(id, spec, datasets) {
  const holder = $(id);
  const turn = (views[id]?.turn ?? 0) + 1;
  views[id] = { ...views[id], turn };
  const options = { renderer: 'svg', actions: { export: true, source: false, compiled: false, editor: false }, downloadFileName: id.replace('chart-', '') };
  const made = await vegaEmbed(holder, { ...withData(spec, datasets.points), datasets }, options);
  if (views[id].turn !== turn) return;
  views[id].view?.finalize();
  views[id].view = made.view;
  made.view.addEventListener('click', (event, item) => { if (item?.datum?.id != null) pick(item.datum.id); });
}

// Says why there is no figure.
function clear(id, text) {
  views[id]?.view?.finalize();
  views[id] = { turn: (views[id]?.turn ?? 0) + 1 };
  $(id).replaceChildren(element('p', { class: 'hint' }, text));
}

const NOTHING = 'No shown setting has these numbers.';
const rowsOf = (points) => points.map((point) => point.row);
// The rows that have values in some columns.
const rowsWith = (points, ...columns) => rowsOf(points).filter((row) => columns.every((column) => row[column.id] != null));

function front(rows, x, y) {
  if (!x.better || !y.better) return [];
  const known = rows.filter((row) => row[x.id] != null && row[y.id] != null);
  const gains = (one, other) => [x, y].map((column) => column.better * (one[column.id] - other[column.id]));
  const beats = (one, other) => { const [a, b] = gains(one, other); return a >= 0 && b >= 0 && a + b > 0; };
  return known.filter((row) => !known.some((other) => beats(other, row))).sort((a, b) => a[x.id] - b[x.id]);
}

function drawPareto(points) {
  const [x, y] = [byId.get($('pareto-x').value), byId.get($('pareto-y').value)];
  const pair = data.pareto[`${x?.id} ${y?.id}`];
  $('tradeoff').classList.toggle('none', !pair);
  if (!pair) return;
  const rows = rowsWith(points, x, y);
  if (!rows.length) return clear('chart-pareto', NOTHING);
  const visible = new Set(rows.map((row) => row.id));
  const color = byId.get($('pareto-c').value);
  const [[x0, x1, xk], [y0, y1, yk]] = pair.scales;
  const spec = filled(color ? data.templates.pareto_colored : data.templates.pareto, {
    '@xt': x.titled, '@yt': y.titled, '@xf': x.format, '@yf': y.format, '@x': x.id, '@y': y.id,
    '@x0': x0, '@x1': x1, '@xk': xk, '@y0': y0, '@y1': y1, '@yk': yk,
    ...(color ? { '@ct': color.title, '@c': color.id } : {}),
  });
  draw('chart-pareto', spec, { points: rows, front: front(rows, x, y), names: pair.names.filter((name) => visible.has(name.id)) });
}

function drawHeat(points) {
  const [x, y] = [byId.get($('heat-x').value), byId.get($('heat-y').value)];
  const possible = x && y;
  $('heat').classList.toggle('none', !possible);
  if (!possible) return;
  for (const side of ['a', 'b']) {
    const metric = byId.get($(`heat-${side}`).value);
    if (!metric) continue;
    const rows = rowsWith(points, x, y, metric);
    if (!rows.length) { clear(`chart-heat-${side}`, 'No shown setting has a value of both keys; choose others.'); continue; }
    const spec = filled(metric.better < 0 ? data.templates.heat_down : data.templates.heat_up,
      { '@xt': x.title, '@yt': y.title, '@zt': metric.titled, '@zf': metric.format, '@x': x.id, '@y': y.id, '@z': metric.id });
    draw(`chart-heat-${side}`, spec, { points: rows });
  }
}

function drawCurves(points) {
  const [x, y] = [byId.get($('curve-x').value), byId.get($('curve-y').value)];
  $('part-key').classList.toggle('none', !(x && y));
  if (!x || !y) return;
  const measured = rowsWith(points, x, y);
  if (!measured.length) { $('curve-hint').textContent = ''; return clear('chart-key', NOTHING); }
  const lines = [...new Set(measured.map((row) => row[`g_${x.id}`]))];
  const few = new Set(lines.slice(0, MOST_LINES));
  $('curve-hint').textContent = lines.length > few.size ? `the first ${few.size} of ${lines.length} lines; filter for others` : '';
  const rows = measured.filter((row) => few.has(row[`g_${x.id}`]));
  const values = [...new Set(rows.map((row) => row[x.id]))].sort((a, b) => a - b);
  const log = values[0] > 0 && values.at(-1) / values[0] >= 8;
  const spec = filled(log ? data.templates.curve_log : data.templates.curve,
    { '@xt': x.title, '@yt': y.titled, '@yf': y.format, '@x': x.id, '@y': y.id, '@g': `g_${x.id}` });
  // Few swept values are marked themselves; round numbers between them were not measured.
  if (values.length <= MOST_LINES) for (const layer of spec.layer) if (layer.encoding?.x?.axis) layer.encoding.x.axis.values = values;
  draw('chart-key', spec, { points: rows });
}

function drawSteps(points) {
  const quantity = $('steps-q').value;
  const ids = points.map((point) => point.id).filter((id) => data.steps[id]?.length).slice(0, MOST_LINES);
  $('part-steps').classList.toggle('none', !quantity || !data.hasSteps);
  $('steps-hint').textContent = points.length > ids.length ? `the first ${ids.length} settings of the table` : '';
  if (!quantity || !data.hasSteps) return;
  if (!ids.length) return clear('chart-steps', 'No shown setting has records of its AR steps.');
  draw('chart-steps', filled(data.templates.steps, { '@qt': data.quantities[quantity], '@q': quantity }), { steps: ids.flatMap((id) => data.steps[id]) });
}

function drawParts(points) {
  const kind = $('parts-k').value;
  $('parts').classList.toggle('none', !kind);
  if (!kind) return;
  const place = new Map(points.map((point, number) => [point.id, number]));
  const records = data.parts[kind].records.filter((record) => place.has(record.id)).map((record) => ({ ...record, place: place.get(record.id) }));
  if (!records.length) return clear('chart-parts', NOTHING);
  draw('chart-parts', data.parts[kind].spec, { parts: records });
}

function drawAgainst(points) {
  const shown = data.differences[$('against-m').value];
  $('against').classList.toggle('none', !shown);
  if (!shown) return;
  const place = new Map(points.map((point, number) => [point.id, number]));
  const records = shown.records.filter((record) => place.has(record.id)).map((record) => ({ ...record, place: place.get(record.id) }));
  drawFailures();
  if (!records.length) return clear('chart-against', NOTHING);
  draw('chart-against', shown.spec, { differences: records });
}

// The worst images and the classes of one setting.
function drawFailures() {
  const found = data.failures[$('fails-s').value];
  $('fails').hidden = !found;
  if (!found) return;
  const base = found.base;
  const own = byNumber($('fails-s').value).label;
  const picture = (url, alt) => element('img', { src: url, alt, class: url.startsWith('data:image/jpeg') ? 'smooth' : '' });
  $('worst').replaceChildren(
    element('figure', { class: 'names' }, element('span', {}, base), element('span', {}, own)),
    ...found.worst.map((one) => element('figure', {}, picture(one.theirs, base), picture(one.ours, own),
      one.class === null ? null : element('b', {}, `class ${one.class}`),
      one.score === null ? null : element('b', {}, `${one.score_baseline.toFixed(2)} → ${one.score.toFixed(2)}`),
      `seed ${one.seed} #${one.index}`)));
  $('classes').parentElement.hidden = found.classes.length === 0;
  const columns = [['label', 'class'], ['count', 'images'], ['recognised', 'Δ recognised'], ['class_score', 'Δ class score']].filter(([key]) => found.classes.some((one) => one[key] !== undefined));
  $('classes').tHead.replaceChildren(element('tr', {}, ...columns.map(([, title]) => element('th', {}, title))));
  $('classes').tBodies[0].replaceChildren(...found.classes.map((one) => element('tr', {}, ...columns.map(([key]) => element('td', {}, String(one[key] ?? '–'))))));
}

function byNumber(id) {
  return data.points.find((point) => point.id === Number(id));
}

function drawImages(points) {
  const strips = points.filter((point) => data.images[point.id]);
  $('images').classList.toggle('none', Object.keys(data.images).length === 0);
  $('strips').replaceChildren(...strips.flatMap((point) => [
    element('b', { onclick: () => pick(point.id), title: point.name }, point.label),
    element('img', { src: data.images[point.id], alt: `samples of ${point.label}`, loading: 'lazy', class: data.images[point.id].startsWith('data:image/jpeg') ? 'smooth' : '' }),
  ]));
}

// ---- one setting

function pick(id) {
  const point = data.points.find((other) => other.id === id);
  for (const row of $('rows').tBodies[0].rows) row.classList.toggle('picked', Number(row.dataset.id) === id);
  const block = (title, text, wrap) => (text ? [element('div', { class: 'copy' }, title, element('button', { type: 'button', 'data-copies': title.toLowerCase(), onclick: (event) => copy(text, event.target) }, 'Copy')), element('pre', { class: wrap ? 'wrap' : '' }, text)] : []);
  const numbers = data.metrics.filter((column) => point.text[column.id]).map((column) => element('tr', {}, element('td', {}, column.title), element('td', {}, point.text[column.id])));
  $('drawer').replaceChildren(
    element('button', { class: 'close', type: 'button', onclick: closeDrawer }, 'Close'),
    element('h2', {}, point.label),
    element('p', { class: 'lead' }, [point.name === point.label ? '' : point.name, point.seeds.length ? `seed ${point.seeds.join(', ')}` : '', point.folder].filter(Boolean).join(' · ')),
    ...block('Command', point.command, true),
    ...block('Config', point.config, false),
    element('div', { class: 'copy' }, 'Numbers'),
    element('table', {}, element('tbody', {}, ...numbers)),
  );
  $('drawer').hidden = false;
}

function closeDrawer() {
  $('drawer').hidden = true;
}

// ---- wiring

function options(id, columns, chosen, none) {
  $(id).replaceChildren(...(none ? [element('option', { value: '' }, none)] : []), ...columns.map((column) => element('option', { value: column.id, selected: column.id === chosen }, column.title)));
}

function drawSummary() {
  const cards = data.summary.map(([title, text, small]) => element('div', { class: 'card' }, element('b', {}, title), element('span', {}, text), small ? element('small', {}, small) : null));
  const notes = data.notes.length ? element('ul', { class: 'notes' }, ...data.notes.map((note) => element('li', {}, note))) : null;
  $('summary').replaceChildren(...cards, ...(notes ? [notes] : []));
}

const drawn = { 'tradeoff': drawPareto, 'against': drawAgainst, 'heat': drawHeat, 'curves': (points) => { drawCurves(points); drawSteps(points); }, 'parts': drawParts, 'images': drawImages };
const stale = new Set(Object.keys(drawn));
const near = new Set();

// A figure is drawn when the reader comes near it, so that large pages open at once.
function drawNear() {
  const points = ordered();
  for (const id of near) if (stale.delete(id)) drawn[id](points);
}

function update() {
  const points = ordered();
  state.visible = points.map((point) => point.id);
  $('count').textContent = `${points.length} of ${data.points.length} settings`;
  drawRows(points);
  for (const id of Object.keys(drawn)) stale.add(id);
  drawNear();
}

let waiting = null;
function changed() {
  clearTimeout(waiting);
  waiting = setTimeout(update, 120);
}

function redraw(...ids) {
  for (const id of ids) stale.add(id);
  drawNear();
}

function start() {
  const better = data.metrics.filter((column) => column.better);
  options('pareto-x', data.axes.x.map((id) => byId.get(id)), data.axes.x[0]);
  options('pareto-y', data.axes.y.map((id) => byId.get(id)), data.axes.y[0]);
  options('pareto-c', data.colors.map((id) => byId.get(id)), data.colors[0], 'none');
  const pairs = data.keys.filter((column) => column.values > 1);
  options('heat-x', pairs, data.heat[0]);
  options('heat-y', pairs, data.heat[1]);
  const measured = better.length ? better : data.metrics;
  options('heat-a', measured, data.axes.y[0]);
  options('heat-b', measured, data.axes.x[0]);
  options('curve-x', data.keys.filter((column) => column.numeric && column.values > 1), data.curve);
  options('curve-y', measured, data.axes.y[0]);
  $('against-m').replaceChildren(...Object.entries(data.differences).map(([value, shown]) => element('option', { value }, shown.title)));
  $('against-base').textContent = data.baseline;
  $('fails-s').replaceChildren(...Object.keys(data.failures).map((value) => element('option', { value }, byNumber(value).label)));
  $('fails-s').addEventListener('change', drawFailures);
  $('steps-q').replaceChildren(...Object.entries(data.quantities).map(([value, title]) => element('option', { value }, title)));
  $('parts-k').replaceChildren(...Object.entries(data.parts).map(([value, part]) => element('option', { value }, part.title)));
  $('columns').replaceChildren(...[...data.keys, ...data.metrics].map((column) => element('label', {}, element('input', { type: 'checkbox', checked: state.columns.has(column.id), onchange: (event) => { state.columns[event.target.checked ? 'add' : 'delete'](column.id); drawHead(); update(); } }), column.title)));
  for (const [ids, section] of [[['pareto-x', 'pareto-y', 'pareto-c'], 'tradeoff'], [['heat-x', 'heat-y', 'heat-a', 'heat-b'], 'heat'], [['curve-x', 'curve-y', 'steps-q'], 'curves'], [['parts-k'], 'parts'], [['against-m'], 'against']]) {
    for (const id of ids) $(id).addEventListener('change', () => redraw(section));
  }
  $('query').addEventListener('input', (event) => { state.query = event.target.value; changed(); });
  $('reset').addEventListener('click', () => { state.query = $('query').value = ''; state.filters = {}; state.sort = null; drawHead(); update(); });
  $('zoom').addEventListener('input', (event) => $('strips').style.setProperty('--zoom', `${event.target.value}px`));
  for (const button of document.querySelectorAll('[data-copy]')) button.addEventListener('click', () => copy(tableText(button.dataset.copy), button));
  document.addEventListener('keydown', (event) => { if (event.key === 'Escape') closeDrawer(); });
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) near[entry.isIntersecting ? 'add' : 'delete'](entry.target.id);
    drawNear();
  }, { rootMargin: '600px' });
  for (const id of Object.keys(drawn)) observer.observe($(id));
  drawSummary();
  drawHead();
  update();
  document.body.dataset.ready = 'true';
}

start();
