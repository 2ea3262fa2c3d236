"use strict";
const table = document.querySelector("table.results");
const body = table.tBodies[0];
const rows = [...body.rows];
const filters = [...document.querySelectorAll(".filters select")];
const search = document.querySelector(".filters input");
const count = document.querySelector(".count");

function filterRows() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    const fits = filters.every((f) => !f.value || row.dataset[f.name] === f.value) && words.every((w) => text.includes(w));
    row.hidden = !fits;
    shown += fits;
  }
  count.textContent = `${shown} of ${rows.length} numbers`;
}

function sortRows(header) {
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
  body.append(...[...rows].sort(compare));
}

for (const filter of filters) filter.addEventListener("change", filterRows);
search.addEventListener("input", filterRows);
for (const button of table.tHead.querySelectorAll("button")) {
  button.addEventListener("click", () => sortRows(button.closest("th")));
}
for (const button of document.querySelectorAll("button.open")) {
  button.addEventListener("click", () => document.getElementById(button.dataset.card).showModal());
}
for (const card of document.querySelectorAll("dialog")) {
  card.addEventListener("click", (event) => { if (event.target === card) card.close(); });
}
filterRows();
