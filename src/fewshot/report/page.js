"use strict";
const tables = [...document.querySelectorAll("table.sortable")];
const rows = tables.flatMap((table) => [...table.tBodies[0].rows]);
const numbers = rows.filter((row) => row.closest("table.results"));
const filters = [...document.querySelectorAll(".filters select")];
const search = document.querySelector(".filters input");
const count = document.querySelector(".count");
const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));

function filterRows() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of rows) {
    const chosen = filters.every((f) => !f.value || row.dataset[f.name].split("|").includes(f.value));
    row.hidden = !(chosen && words.every((word) => texts.get(row).includes(word)));
  }
  for (const table of tables) table.classList.toggle("emptied", [...table.tBodies[0].rows].every((row) => row.hidden));
  count.textContent = `${numbers.filter((row) => !row.hidden).length} of ${numbers.length} numbers`;
}

function sortRows(header) {
  const table = header.closest("table");
  const column = header.cellIndex;
  const up = header.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  const compare = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === "");
    const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
    return up ? order : -order;
  };
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
}

for (const filter of filters) filter.addEventListener("change", filterRows);
search.addEventListener("input", filterRows);
window.addEventListener("beforeprint", () => {
  for (const table of document.querySelectorAll("#classes details")) table.open = true;
});
document.addEventListener("click", (event) => {
  const header = event.target.closest("table.sortable thead th");
  if (header && event.target.closest("button")) return sortRows(header);
  const opener = event.target.closest("[data-card]");
  if (opener) return document.getElementById(opener.dataset.card).showModal();
  if (event.target.matches("dialog")) event.target.close();
});
filterRows();
