// Draws the figures of a report into the page, from the block of JSON that comes with it. Strings of journals get into
// the document as text alone (textContent, options), never as HTML; on a canvas stands only what the program itself says.
(() => {
"use strict";

const figures = JSON.parse(document.getElementById("figures").textContent);
const Plotting = Bokeh.Plotting;
const root = document.documentElement;
Bokeh.set_log_level("warn");

// Okabe and Ito's colours, which those who are colour-blind tell apart, without the yellow, which is too pale; and
// as every run has its dashes too, without any colour.
const COLOURS = {
  light: ["#0072b2", "#d55e00", "#007a5a", "#b0558d", "#b57b00", "#444444", "#2f95c8"],
  dark: ["#5db2e8", "#ff8a3c", "#2bc39a", "#e39ac7", "#f0b93a", "#cccccc", "#9ad2f5"],
};
const DASHES = [[], [7, 3], [2, 2], [9, 3, 2, 3]];
const RULE_DASHES = [[6, 4], [2, 3], [10, 3, 2, 3], [1, 2]];
// From dark to light, evenly for every kind of sight.
const SCALE = ["#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6dcd59", "#b4de2c", "#fde725"];

// A size that changes while Bokeh looks at sizes is looked at again in the next frame: nothing is wrong.
addEventListener("error", (event) => {
  if (/^ResizeObserver loop/.test(event.message)) event.preventDefault();
});

// ---- elements ----------------------------------------------------------------------------------------------------

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const isDark = () => root.dataset.scheme === "dark";
const colour = (style) => COLOURS[isDark() ? "dark" : "light"][style % 7];
const dash = (style) => DASHES[style % 4];
const ink = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

function mix(from, to, share) {
  const part = (hex, at) => parseInt(hex.slice(at, at + 2), 16);
  const at = (i) => Math.round(part(from, i) + share * (part(to, i) - part(from, i)));
  return `#${[1, 3, 5].map((i) => at(i).toString(16).padStart(2, "0")).join("")}`;
}

function onScale(share) {
  const place = Math.min(1, Math.max(0, share)) * (SCALE.length - 1);
  const i = Math.min(SCALE.length - 2, Math.floor(place));
  return mix(SCALE[i], SCALE[i + 1], place - i);
}
const PALETTE = Array.from({length: 256}, (_, i) => onScale(i / 255));
// Lines are not drawn in the shades that the background has.
const shade = (share) => onScale(isDark() ? 0.25 + 0.75 * share : 0.85 * share);

// ---- numbers -----------------------------------------------------------------------------------------------------

const known = (values) => values.map((value) => (value === null ? NaN : value));

function unpacked({low, high, log, data}) {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const values = new Float64Array(bytes.length / 2);
  for (let i = 0; i < values.length; i++) {
    const q = bytes[2 * i] | (bytes[2 * i + 1] << 8);
    const value = low + (high - low) * q / 65534;
    values[i] = q === 65535 ? NaN : log ? 10 ** value : value;
  }
  return values;
}

function sizeText(tokens) {
  for (const [unit, scale] of [["M", 1 << 20], ["K", 1 << 10]])
    if (tokens >= scale) return `${+(tokens / scale).toPrecision(3)}${unit}`;
  return `${+tokens.toPrecision(3)}`;
}

const digits = (value) => (Number.isFinite(value) ? `${+value.toPrecision(4)}` : "not finite");

function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values)
    if (Number.isFinite(value)) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  return [low, high];
}

/// From 0 where the data come near it, and always a little beyond, so that no line lies under an axis.
function yRange(axis, values) {
  let [low, high] = extent(axis.log ? values.filter((value) => value > 0) : values);
  if (!(low <= high)) [low, high] = axis.log ? [1, 10] : [0, 1];
  if (axis.log) {
    const least = Math.max(low, axis.least ?? 0);
    const room = Math.max(0.02, 0.04 * Math.log10(high / least));
    return [least / 10 ** room, high * 10 ** room];
  }
  low = axis.least ?? (low >= 0 && low < 0.6 * high ? 0 : low);
  high = axis.most ?? high;
  const room = 0.04 * (high - low || Math.abs(high) || 1);
  return [low - room, high + room];
}

function xRange(axis, values) {
  let [low, high] = extent(values);
  if (!(low <= high)) [low, high] = [1, 10];
  if (axis.log) return low === high ? [low / 2, high * 2] : [low / (high / low) ** 0.03, high * (high / low) ** 0.03];
  const room = 0.02 * (high - low || Math.abs(high) || 1);
  return [low - room, high + room];
}

// ---- plots -------------------------------------------------------------------------------------------------------

const tokenTicks = () => new Bokeh.CustomJSTickFormatter({
  code: "for (const [unit, scale] of [['M', 1048576], ['K', 1024]]) if (tick >= scale) " +
        "return `${+(tick / scale).toPrecision(3)}${unit}`; return `${+tick.toPrecision(3)}`"});
const plainTicks = () => new Bokeh.CustomJSTickFormatter({
  code: "const size = Math.abs(tick); return size !== 0 && (size >= 1e5 || size < 1e-3) " +
        "? Number(tick.toPrecision(4)).toExponential().replace('e+', 'e') : `${+tick.toPrecision(6)}`"});

const hasMouse = matchMedia("(pointer: fine)").matches;

function plot(x, y, xs, ys) {
  const made = Plotting.figure({
    sizing_mode: "stretch_both", x_axis_type: x.log ? "log" : "linear",
    y_axis_type: y.log ? "log" : "linear", x_range: xs, y_range: ys, tools: "", toolbar_location: "above",
    background_fill_alpha: 0, border_fill_alpha: 0, outline_line_color: ink("line"), min_border_right: 12,
  });
  made.toolbar.logo = null;
  made.toolbar.autohide = true;
  const zoom = new Bokeh.BoxZoomTool();
  made.add_tools(new Bokeh.PanTool(), zoom, new Bokeh.WheelZoomTool(), new Bokeh.ResetTool(), new Bokeh.SaveTool());
  made.toolbar.active_drag = hasMouse ? zoom : null;  // a finger scrolls the page
  made.toolbar.active_scroll = null;
  for (const [axis, spec] of [[made.xaxis, x], [made.yaxis, y]]) {
    axis.axis_label = spec.label;
    axis.axis_label_text_font = axis.major_label_text_font = "system-ui, sans-serif";
    axis.axis_label_text_font_style = "normal";
    axis.axis_label_text_font_size = "13px";
    axis.major_label_text_font_size = "12px";
    axis.axis_label_text_color = axis.major_label_text_color = ink("text");
    axis.axis_line_color = axis.major_tick_line_color = ink("soft");
    axis.minor_tick_line_color = null;
    axis.formatter = /tokens/.test(spec.label) && !/nats|loss/.test(spec.label) ? tokenTicks() : plainTicks();
  }
  if (x.log) made.xaxis.ticker = made.xgrid.ticker =
    new Bokeh.LogTicker({base: 2, mantissas: [1], desired_num_ticks: 7, num_minor_ticks: 0});
  if (y.log) made.yaxis.ticker = made.ygrid.ticker = new Bokeh.LogTicker({desired_num_ticks: 6, num_minor_ticks: 0});
  for (const grid of [made.xgrid, made.ygrid]) grid.grid_line_color = ink("line");
  return made;
}

/// Vertical lines, named by an axis above the frame, where no curve is.
function addRules(made, rules, log) {
  if (rules.length === 0) return;
  rules.forEach(({x}, i) => {
    made.add_layout(new Bokeh.Span({location: x, dimension: "height", line_color: ink("rule"), line_width: 1.5,
                                    line_dash: RULE_DASHES[i % RULE_DASHES.length]}));
  });
  const short = (label) => label.replace("trained at ", "");
  const names = new Map(rules.map(({x, label}, i) => [x, i > 0 ? short(label) : label]));
  const axis = new (log ? Bokeh.LogAxis : Bokeh.LinearAxis)({
    ticker: new Bokeh.FixedTicker({ticks: rules.map(({x}) => x)}), major_label_overrides: names, axis_line_color: null,
    major_tick_line_color: null, minor_tick_line_color: null, major_label_standoff: 0, major_label_text_color: ink("rule"),
    major_label_text_font: "system-ui, sans-serif", major_label_text_font_size: "12px"});
  made.add_layout(axis, "above");
}

function colourBar(made, mapper, label) {
  const bar = new Bokeh.ColorBar({
    color_mapper: mapper, title: label, width: 10, padding: 2, background_fill_alpha: 0, title_standoff: 8,
    title_text_color: ink("text"), major_label_text_color: ink("text"), title_text_font_style: "normal",
    title_text_font: "system-ui, sans-serif", title_text_font_size: "12px", major_label_text_font_size: "11px",
    formatter: /tokens/.test(label) ? tokenTicks() : plainTicks()});
  made.add_layout(bar, "right");
}

function hover(made, renderers, rows) {
  made.add_tools(new Bokeh.HoverTool({renderers, tooltips: rows, mode: "mouse", line_policy: "nearest"}));
}

/// One panel of curves. `exp`: show the exponentials of the values, on a logarithmic axis, under that name.
/// Gives the plot, and its renderers by style.
function linesPlot(panel, {exp = "", hidden = new Set()} = {}) {
  const of = (value) => (exp ? Math.exp(value) : value);
  const y = exp ? {label: exp, log: true} : panel.y;
  const series = panel.series.map((one) => ({...one, x: known(one.x), y: known(one.y).map(of),
                                             low: one.low && known(one.low).map(of), high: one.high && known(one.high).map(of)}));
  const shown = series.filter((one) => !hidden.has(one.style));
  const values = shown.flatMap((one) => one.y);
  if (panel.zero) values.push(0);
  const range = (ends) => new Bokeh.Range1d({start: ends[0], end: ends[1]});
  const xs = range(xRange(panel.x, series.flatMap((one) => one.x).concat(panel.rules.map((rule) => rule.x))));
  const ys = range(yRange(y, values));
  const made = plot(panel.x, y, xs, ys);
  if (panel.zero) made.add_layout(new Bokeh.Span({location: 0, dimension: "width", line_color: ink("soft"), line_width: 1}));
  const lines = [], at = /tokens/.test(panel.x.label) ? sizeText : digits;
  for (const one of series) {
    const visible = !hidden.has(one.style);
    const data = {x: one.x, y: one.y, name: one.x.map(() => one.name), at: one.x.map(at), says: one.y.map(digits)};
    const source = new Bokeh.ColumnDataSource({data});
    const line_color = one.shade === undefined ? colour(one.style) : shade(one.shade);
    const line_dash = one.shade === undefined ? (one.dashed ? [1, 3] : dash(one.style)) : one.dashed ? [7, 3] : [];
    if (one.low && one.low.some(Number.isFinite)) {  // of a source of its own: what is pointed at in the line's would hide it
      const band = new Bokeh.ColumnDataSource({data: {x: one.x, low: one.low, high: one.high}});
      made.varea({field: "x"}, {field: "low"}, {field: "high"},
                 {source: band, fill_color: line_color, fill_alpha: 0.16, visible});
    }
    lines.push(made.line({field: "x"}, {field: "y"}, {source, line_color, line_dash, line_width: 2, visible}));
    if (one.dots || one.x.length < 2)
      made.scatter({field: "x"}, {field: "y"}, {source, size: 5, line_color, fill_color: line_color, visible});
  }
  for (const point of panel.points ?? []) {
    if (hidden.has(point.style)) continue;
    const source = new Bokeh.ColumnDataSource({data: {x: [point.x], y: [of(point.y)], name: [point.label],
                                                      at: [at(point.x)], says: [digits(of(point.y))]}});
    lines.push(made.scatter({field: "x"}, {field: "y"}, {source, marker: "triangle", size: 13, fill_color: colour(point.style),
                                                         line_color: ink("page"), line_width: 1.5}));
  }
  addRules(made, panel.rules, panel.x.log);
  hover(made, lines, [["", "@name"], [panel.x.label, "@at"], [y.label, "@says"]]);
  return made;
}

/// Cells of any edges: {left, right, bottom, top, value, text}, and what is drawn where there is no value.
function cellsPlot(spec, cells, mapper, rows) {
  const made = plot(spec.x, spec.y, new Bokeh.Range1d(spec.xs), new Bokeh.Range1d(spec.ys));
  made.xgrid.grid_line_color = made.ygrid.grid_line_color = null;
  const source = new Bokeh.ColumnDataSource({data: cells});
  const missing = cells.value.map((value) => (Number.isFinite(value) ? " " : "/"));
  source.data.hatch = missing;
  const quads = made.quad({field: "left"}, {field: "right"}, {field: "bottom"}, {field: "top"}, {
    source, fill_color: {field: "value", transform: mapper}, line_color: ink("page"), line_width: spec.edges ?? 0.5,
    line_alpha: spec.edges ?? 0.5, hatch_pattern: {field: "hatch"}, hatch_color: ink("soft"), hatch_scale: 8, hatch_weight: 0.6,
    nonselection_fill_alpha: 1, nonselection_line_alpha: 0.5});
  hover(made, [quads], rows);
  colourBar(made, mapper, spec.value.label);
  return [made, source];
}

function nameTicks(axis, names, most) {
  const step = Math.ceil(names.length / most);
  const ticks = names.map((_, i) => i).filter((i) => i % step === 0);
  axis.ticker = new Bokeh.FixedTicker({ticks});
  axis.major_label_overrides = new Map(ticks.map((i) => [i, `${names[i]}`]));
}

/// Passkeys: accuracy by length and depth.
function passkeyPlot(panel) {
  const columns = panel.column;
  const cells = {left: columns.map((i) => i - 0.5), right: columns.map((i) => i + 0.5), bottom: panel.bottom, top: panel.top,
                 value: known(panel.values), text: panel.text, name: columns.map((i) => panel.names[i])};
  const mapper = new Bokeh.LinearColorMapper({palette: PALETTE, low: 0, high: 1, nan_color: ink("missing")});
  const spec = {x: {label: panel.x.label}, y: panel.y, value: panel.value, edges: columns.length > 600 ? 0 : 1,
                xs: {start: -0.5, end: panel.names.length - 0.5}, ys: {start: 100, end: 0}};
  const [made] = cellsPlot(spec, cells, mapper, [["length", "@name"], ["depth", "@top{0}% to @bottom{0}%"], ["found", "@text"]]);
  nameTicks(made.xaxis, panel.names, 9);
  if (panel.names.length > 5) made.xaxis.major_label_orientation = Math.PI / 4;
  return made;
}

/// Layers by columns of heads.
function gridCells(values, rows, columns, layers, names) {
  const cells = {left: [], right: [], bottom: [], top: [], value: [], says: [], layer: [], head: []};
  for (let i = 0; i < rows * columns; i++) {
    const row = Math.floor(i / columns), column = i % columns;
    cells.left.push(column - 0.5);
    cells.right.push(column + 0.5);
    cells.bottom.push(row - 0.5);
    cells.top.push(row + 0.5);
    cells.value.push(values[i]);
    cells.says.push(digits(values[i]));
    cells.layer.push(layers ? layers[row] : row);
    cells.head.push(names ? names[i] : column);
  }
  return cells;
}

function mapperOf(values, log) {
  const [low, high] = extent(values);
  const isLog = log && low > 0 && high > low;
  const kind = isLog ? Bokeh.LogColorMapper : Bokeh.LinearColorMapper;
  return new kind({palette: PALETTE, low: low <= high ? low : 0, high: high > low ? high : low + 1, nan_color: ink("missing")});
}

function gridPlot(panel, values, layers, names) {
  const {rows, columns} = panel;
  const mapper = mapperOf(values, panel.values.log);
  const spec = {x: panel.x, y: panel.y, value: panel.value, edges: rows * columns > 2000 ? 0 : 0.5,
                xs: {start: -0.5, end: columns - 0.5}, ys: {start: -0.5, end: rows - 0.5}};
  const [made, source] = cellsPlot(spec, gridCells(values, rows, columns, layers, names), mapper,
                                   [["layer", "@layer"], ["head", "@head"], [panel.value.label, "@says"]]);
  if (layers) nameTicks(made.yaxis, layers, 12);
  else made.yaxis.ticker = new Bokeh.BasicTicker({min_interval: 1, num_minor_ticks: 0});
  made.xaxis.ticker = new Bokeh.BasicTicker({min_interval: 1, num_minor_ticks: 0, desired_num_ticks: 6});
  return [made, source];
}

// ---- figures -----------------------------------------------------------------------------------------------------

/// A panel's place: its heading, and what Bokeh draws into.
function place(host, title, says) {
  const target = element("div", {class: "canvas", role: "img", "aria-label": says});
  host.append(element("div", {class: "panel"}, element("h4", {}, title), target));
  return target;
}

async function put(made, target) {
  await Plotting.show(made, target);
}

function sample(style, shown) {
  const space = "http://www.w3.org/2000/svg";
  const picture = document.createElementNS(space, "svg");
  const line = document.createElementNS(space, "line");
  for (const [name, value] of Object.entries({viewBox: "0 0 36 8", width: 36, height: 8, "aria-hidden": "true"}))
    picture.setAttribute(name, value);
  for (const [name, value] of Object.entries({x1: 0, x2: 36, y1: 4, y2: 4, stroke: shown ?? colour(style), "stroke-width": 2.5,
                                              "stroke-dasharray": shown ? "" : dash(style).join(" ")}))
    line.setAttribute(name, value);
  picture.append(line);
  return picture;
}

/// Buttons that show and hide a run in all panels.
function addLegend(host, names, state, redraw) {
  const list = element("div", {class: "legend", role: "group", "aria-label": "Runs; press one to hide or show it"});
  for (const {name, style} of names) {
    const button = element("button", {type: "button", "aria-pressed": `${!state.hidden.has(style)}`}, sample(style), name);
    button.addEventListener("click", () => {
      state.hidden.has(style) ? state.hidden.delete(style) : state.hidden.add(style);
      button.setAttribute("aria-pressed", `${!state.hidden.has(style)}`);
      redraw();
    });
    list.append(button);
  }
  host.append(list);
}

/// For panels with curves of their own.
function addKeys(target, panel) {
  const list = element("div", {class: "legend"});
  for (const one of panel.series) list.append(element("span", {class: "key"}, sample(one.style), one.name));
  target.after(list);
}

/// What the shades of curves stand for.
function addScale(target, {label, least, most}) {
  const stops = Array.from({length: 9}, (_, i) => shade(i / 8)).join(", ");
  const strip = element("span", {class: "strip", style: `background: linear-gradient(to right, ${stops})`});
  target.after(element("div", {class: "legend"}, element("span", {class: "key"}, `${label} ${least}`, strip, `${most}`)));
}

function addChoice(host, label, names, chosen, onChoice) {
  const list = element("select", {"aria-label": label});
  names.forEach((name, i) => list.append(new Option(name, i, i === chosen, i === chosen)));
  list.addEventListener("change", () => onChoice(list.selectedIndex));
  host.append(element("label", {}, `${label} `, list));
  return list;
}

async function drawPanel(host, panel, figure, state) {
  const axes = [panel.x.label, state.exp || panel.y.label, panel.value?.label].filter(Boolean).join(", ");
  const target = place(host, panel.title, `${panel.title}: ${axes}. The numbers are in the tables beneath.`);
  if (panel.kind === "lines") {
    await put(linesPlot(panel, panel.own_legend ? {} : state), target);
    if (panel.scale) addScale(target, panel.scale);
    if (panel.own_legend) addKeys(target, panel);
  } else if (panel.kind === "cells") {
    await put(passkeyPlot(panel), target);
  } else {
    const values = unpacked(panel.values);
    await put(gridPlot(panel, values)[0], target);
    if (values.some((value) => !Number.isFinite(value))) target.after(element("div", {class: "legend"}, `hatched: ${panel.missing}`));
  }
}

async function drawPanels(host, figure, state) {
  const grid = element("div", {class: "panels"});
  const redraw = async () => {
    const fresh = element("div", {class: "panels"});
    fresh.style.minHeight = `${grid.offsetHeight}px`;
    host.querySelector(".panels").replaceWith(fresh);
    for (const panel of figure.panels) await drawPanel(fresh, panel, figure, state);
    fresh.style.minHeight = "";
  };
  if (figure.exp) {
    const controls = element("div", {class: "controls"});
    addChoice(controls, "shown as", ["loss in nats per token", figure.exp], state.exp ? 1 : 0, (i) => {
      state.exp = i ? figure.exp : "";
      redraw();
    });
    host.append(controls);
  }
  if (figure.legend?.length) addLegend(host, figure.legend, state, redraw);
  host.append(grid);
  await redraw();
}

/// Statistics of the state: a map of all layers and heads, and one of them along the stream.
async function drawStates(host, figure, state) {
  const {layers, columns, heads} = figure;
  const rows = layers.length;
  state.cell ??= figure.first;
  state.quantity ??= 0;
  const controls = element("div", {class: "controls"}), grid = element("div", {class: "panels"});
  host.append(controls, grid);
  const layerOf = (cell) => Math.floor(cell / columns);
  const headNames = () => heads.slice(layerOf(state.cell) * columns, (layerOf(state.cell) + 1) * columns);
  const title = () => `layer ${layers[layerOf(state.cell)]}, head ${heads[state.cell]}`;

  const map = {x: {label: figure.group > 1 ? `head (groups of ${figure.group}, the one that grows most)` : "head"},
               y: {label: "layer"}, value: {label: figure.map_unit}, rows, columns, values: figure.map};
  const values = unpacked(figure.map);
  const target = place(grid, figure.map_label, `${figure.map_label}, of ${rows} layers and ${columns} columns of heads.`);
  const [made, source] = gridPlot(map, values, layers, heads);
  made.add_tools(new Bokeh.TapTool({behavior: "select"}));
  const frame = new Bokeh.ColumnDataSource({data: {x: [0], y: [0]}});
  made.rect({field: "x"}, {field: "y"}, 1, 1, {source: frame, fill_alpha: 0, line_color: "#d55e00", line_width: 2.5});
  await put(made, target);
  if (values.some((value) => !Number.isFinite(value))) target.after(element("div", {class: "legend"}, "hatched: not finite"));
  const curve = place(grid, title(), "The chosen layer and head along the stream.");

  async function drawCurve() {
    const quantity = figure.quantities[state.quantity];
    const all = unpacked(quantity.values), step = rows * columns;
    const y = figure.positions.map((_, s) => all[s * step + state.cell]);
    frame.data = {x: [state.cell % columns], y: [layerOf(state.cell)]};
    curve.previousSibling.textContent = title();
    const panel = {x: {label: "position (tokens)", log: true}, y: {label: quantity.label, log: quantity.values.log},
                   series: [{name: title(), style: 0, x: figure.positions, y, dots: y.length < 40}], rules: figure.rules};
    curve.replaceChildren();
    await put(linesPlot(panel), curve);
  }
  async function choose(cell) {
    state.cell = cell;
    layerList.selectedIndex = layerOf(cell);
    headList.replaceChildren(...headNames().map((name, i) => new Option(name, i)));
    headList.selectedIndex = cell % columns;
    await drawCurve();
  }
  const layerList = addChoice(controls, "layer", layers, layerOf(state.cell), (i) => choose(i * columns + state.cell % columns));
  const headList = addChoice(controls, "head", headNames(), state.cell % columns, (i) => choose(layerOf(state.cell) * columns + i));
  addChoice(controls, "shown", figure.quantities.map((one) => one.label), state.quantity, (i) => {
    state.quantity = i;
    drawCurve();
  });
  source.selected.properties.indices.change.connect(() => {
    const [cell] = source.selected.indices;
    if (cell !== undefined) choose(cell);
  });
  await drawCurve();
}

const hiddenAtFirst = (figure) => (figure.legend ?? []).filter((one) => one.hidden).map((one) => one.style);
const states = figures.map((figure) => ({hidden: new Set(hiddenAtFirst(figure)), exp: ""}));
let drawing = Promise.resolve();

async function drawAll() {
  root.dataset.drawn = "no";
  for (const host of document.querySelectorAll(".plot")) {
    const i = Number(host.dataset.figure);
    host.replaceChildren();
    await (figures[i].kind === "states" ? drawStates : drawPanels)(host, figures[i], states[i]);
  }
  root.dataset.drawn = "yes";
}

// ---- light and dark, print ---------------------------------------------------------------------------------------

const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const button = document.getElementById("scheme");

function setScheme(scheme) {
  root.dataset.scheme = scheme;
  button.textContent = scheme === "dark" ? "Light" : "Dark";
  button.setAttribute("aria-label", `Show the page in ${button.textContent.toLowerCase()} colours`);
  drawing = drawing.then(drawAll);
}

button.hidden = false;
button.addEventListener("click", () => setScheme(isDark() ? "light" : "dark"));
// To print, browsers prefer light for a moment, and wait for no drawing: the scheme is looked at when that is over.
prefersDark.addEventListener("change", () => setTimeout(() => {
  const scheme = prefersDark.matches ? "dark" : "light";
  if (scheme !== root.dataset.scheme) setScheme(scheme);
}));

const panels = () => document.querySelectorAll(".panel");
const canvases = (node) => (node.tagName === "CANVAS" ? [node]
  : [...(node.shadowRoot?.children ?? []), ...node.children].flatMap(canvases));

const pixels = (canvas) => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);

/// The same hues, what was light now dark. Gives what was there before.
function turn(canvas) {
  const before = pixels(canvas), after = pixels(canvas), {data} = after;
  for (let i = 0; i < data.length; i += 4) {
    const shift = 255 - Math.max(data[i], data[i + 1], data[i + 2]) - Math.min(data[i], data[i + 1], data[i + 2]);
    for (let j = i; j < i + 3; j++) data[j] += shift;
  }
  canvas.getContext("2d").putImageData(after, 0, 0);
  return before;
}

// Paper is white, shows all tables, and the pictures in the sizes that they were drawn in.
let folded = [], dark = [];
addEventListener("beforeprint", () => {
  for (const one of panels()) one.style.width = `${one.offsetWidth}px`;
  folded = [...document.querySelectorAll("main details:not([open])")];
  for (const one of folded) one.open = true;
  const drawn = isDark() ? [...panels()].flatMap(canvases) : [];
  dark = drawn.filter((canvas) => canvas.width && canvas.height).map((canvas) => [canvas, turn(canvas)]);
});
addEventListener("afterprint", () => {
  for (const one of panels()) one.style.width = "";
  for (const one of folded) one.open = false;
  for (const [canvas, before] of dark) canvas.getContext("2d").putImageData(before, 0, 0);
});

setScheme(prefersDark.matches ? "dark" : "light");
})();
