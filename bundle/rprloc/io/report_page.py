"""The frame of a report's page: its style, and the script that sorts and filters the rows."""

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src 'self' file:; \
style-src '{style_hash}'; script-src '{script_hash}'">
<meta name="viewport" content="width=device-width">
<title>RPR-Loc report</title><style>{style}</style></head><body>
<h1>Located organs</h1>
<p>{counts}{missing}</p>
<p class="note">For research only. Every box must be checked by a person.</p>
<p>Each picture shows the axial, the coronal and the sagittal slice through the centre of the box, or through the point,
seen from the feet, from the front and from the left: the patient's right is on the left, in the sagittal slice the
front.</p>
<form hidden>
<label>Scan <input type="search" name="scan" placeholder="part of its name"></label>
<label>Organ <select name="organ"><option value="">all</option>{organs}</select></label>
<label>Show <select name="kind"><option value="">everything</option><option value="box">boxes</option>
<option value="cut">boxes of organs that the scan cuts</option><option value="point">landmarks</option>
<option value="absent">organs not in the scan</option>
<option value="failed">failed scans</option></select></label>
<label>Expected error from <input type="number" name="error" min="0" step="any"> mm</label>
<label><input type="checkbox" name="doubt"> with a warning only</label>
<output role="status"></output>
<button type="button" name="print">Print these rows</button>
</form>
<table><thead><tr><th scope="col">scan</th><th scope="col">organ</th><th scope="col">expected error mm</th>
<th scope="col">result</th><th scope="col">warnings</th><th scope="col">slices</th></tr></thead>
<tbody>
{rows}
</tbody></table>
<script>{script}</script></body></html>
"""
"""All that stands in braces is put in, and must be HTML already."""

STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --line: #d5d5d5; --note: #fff4d6; --bad: #fde4e1; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --paper: #16181b; --line: #3a3d42; --note: #43370f; --bad: #4d1f1a; }
}
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem; color: var(--ink); background: var(--paper); }
h1 { margin: 0; }
.note { background: var(--note); border-left: 4px solid #d89b00; padding: .4rem .8rem; }
form { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; align-items: baseline; position: sticky; top: 0; z-index: 1;
  background: var(--paper); padding: .6rem 0; border-bottom: 1px solid var(--line); }
form[hidden] { display: none; }
input, select, button { font: inherit; }
input[type=number] { width: 5rem; }
/* Rows are grids of their own, so that only those in view are laid out: a table of thousands would take seconds. */
table, thead, tbody { display: block; min-width: 68rem; }
tr { display: grid; grid-template-columns: 11fr 10fr 5rem 14fr 24fr 560px; border-bottom: 1px solid var(--line); }
tr[hidden] { display: none; }
tbody tr { content-visibility: auto; contain-intrinsic-size: auto 190px; }
th, td { padding: .3rem .5rem; text-align: left; overflow-wrap: anywhere; font-weight: normal; }
thead th { font-weight: 600; }
td:nth-child(4), td:nth-child(5) { font-size: 13px; }
thead button { all: unset; cursor: pointer; text-decoration: underline dotted; }
thead button:focus-visible { outline: 2px solid; outline-offset: 2px; }
[aria-sort=ascending] button::after { content: " \\25B2"; } [aria-sort=descending] button::after { content: " \\25BC"; }
td:nth-child(3) { text-align: right; }
tr.failed td:nth-child(4) { background: var(--bad); grid-column: 4 / 6; } tr.failed td:nth-child(5) { display: none; }
tr.cut td:nth-child(4), td:nth-child(5):not(:empty) { background: var(--note); }
tr.absent td:nth-child(4) { font-style: italic; }
img { display: block; max-width: 100%; height: auto; background: #000; }
@media print {
  :root { color-scheme: light; --ink: #000; --paper: #fff; --line: #999; --note: #fff4d6; --bad: #fde4e1; }
  body { font-size: 9pt; margin: 0; } form { display: none; } thead button { text-decoration: none; }
  table, thead, tbody { min-width: 0; } tbody tr { content-visibility: visible; break-inside: avoid; }
  tr { grid-template-columns: 11fr 10fr 5rem 14fr 24fr 38%; } td:nth-child(4), td:nth-child(5) { font-size: 8pt; }
}
"""

SCRIPT = """
"use strict";
const form = document.querySelector("form"), body = document.querySelector("tbody");
const rows = Array.from(body.rows, (row, order) => {
  const [scan, organ, error, , doubt] = Array.from(row.cells, cell => cell.textContent);
  return {row, order, scan, organ, error: error === "" ? null : Number(error), doubt, kind: row.className};
});
const COLUMNS = ["scan", "organ", "error", null, "doubt"];

function isEmpty(value) { return value === null || value === ""; }

function sort(column, descending) {
  rows.sort((a, b) => {
    const none = isEmpty(a[column]) - isEmpty(b[column]);  // what has no value comes last either way
    if (none !== 0 || isEmpty(a[column])) return none || a.order - b.order;
    const order = a[column] < b[column] ? -1 : a[column] > b[column] ? 1 : 0;
    return (descending ? -order : order) || a.order - b.order;
  });
  body.replaceChildren();  // all at once: taking thousands of rows out one by one takes half a minute
  const sorted = document.createDocumentFragment();
  for (const one of rows) sorted.append(one.row);
  body.append(sorted);
}

function filter() {
  const scan = form.scan.value.toLowerCase(), organ = form.organ.value, kind = form.kind.value;
  const least = form.error.value === "" ? null : Number(form.error.value);
  let shown = 0;
  for (const one of rows) {
    const fits = one.scan.toLowerCase().includes(scan) && (organ === "" || one.organ === organ)
      && (kind === "" || one.kind === kind || (kind === "box" && (one.kind === "whole" || one.kind === "cut")))
      && (least === null || (one.error !== null && one.error >= least)) && (!form.doubt.checked || one.doubt !== "");
    one.row.hidden = !fits;
    shown += fits;
  }
  form.querySelector("output").textContent = `${shown} of ${rows.length} rows`;
}

document.querySelectorAll("thead th").forEach((head, index) => {
  const column = COLUMNS[index];
  if (!column) return;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = head.textContent;
  button.addEventListener("click", () => {
    // The doubtful first: large errors and warnings, but names from A on.
    const before = head.getAttribute("aria-sort"), first = column === "error" ? "descending" : "ascending";
    const next = before === null ? first : before === "ascending" ? "descending" : "ascending";
    document.querySelectorAll("thead th").forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", next);
    sort(column, next === "descending");
  });
  head.replaceChildren(button);
});
form.addEventListener("input", filter);
form.addEventListener("submit", event => event.preventDefault());
form.print.addEventListener("click", async () => {
  const images = rows.filter(one => !one.row.hidden).flatMap(one => Array.from(one.row.querySelectorAll("img")));
  for (const image of images) image.loading = "eager";  // else those not yet in view would be missing on paper
  await Promise.allSettled(images.map(image => image.decode()));
  window.print();
});
form.hidden = false;
filter();
"""
