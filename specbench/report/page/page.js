// Sorts a table by the column whose header is pressed: down, up, then as it was.
"use strict";

const NUMBER = /^[^\d–-]{0,2}([+−-]?\d[\d,]*(?:\.\d+)?)/;

// What a cell counts as: its first number, its text, or nothing, which always comes last.
function valueOf(cell) {
  const text = cell.textContent.trim();
  const found = NUMBER.exec(text);
  if (found) return Number(found[1].replaceAll(",", "").replace("−", "-"));
  return text === "" || text === "–" ? null : text.toLowerCase();
}

function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  if (typeof a === "string") return sign * a.localeCompare(b);
  return sign * (a - b);
}

function sort(table, header) {
  const values = Array.from(table.querySelectorAll("tbody tr"), (row) => valueOf(row.cells[header.cellIndex]));
  const words = typeof values.find((value) => value !== null) === "string";
  const turns = words ? ["none", "ascending", "descending"] : ["none", "descending", "ascending"];
  const order = turns[(turns.indexOf(header.getAttribute("aria-sort")) + 1) % 3];
  for (const other of table.tHead.querySelectorAll("th")) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", order);
  const place = header.cellIndex;
  const rows = Array.from(table.querySelectorAll("tbody tr"));
  const original = (row) => Number(row.dataset.place);
  const sign = order === "ascending" ? 1 : -1;
  rows.sort((a, b) => {
    const values = [a, b].map((row) => valueOf(row.cells[place]));
    const difference = order === "none" ? 0 : compare(values[0], values[1], sign);
    return difference || original(a) - original(b);
  });
  // Sorted, the rows no longer stand in blocks; as they were, they do.
  for (const row of rows) table.tBodies[order === "none" ? Number(row.dataset.block) : 0].append(row);
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const header of table.tHead.querySelectorAll("th")) {
    header.setAttribute("aria-sort", "none");
    header.querySelector("button").addEventListener("click", () => sort(table, header));
  }
}
