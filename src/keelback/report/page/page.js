"use strict";
(() => {
  const specs = JSON.parse(document.getElementById("charts").textContent);
  const charts = [...document.querySelectorAll(".chart")];
  const hidden = new WeakMap(); // figure element -> keys of the legend entries switched off
  const drawn = new Set();
  const touch = matchMedia("(pointer: coarse)").matches;

  // A copy of a specification with every colour token replaced by the current appearance's colour.
  const painted = (node, key, style) => {
    if (typeof node === "string") {
      return node.startsWith("--") && /color(scale)?$/.test(key) ? style.getPropertyValue(node).trim() : node;
    }
    if (Array.isArray(node)) return node.map((item) => painted(item, key, style));
    if (node && typeof node === "object") {
      return Object.fromEntries(Object.entries(node).map(([k, v]) => [k, painted(v, k, style)]));
    }
    return node;
  };

  const draw = (chart) => {
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(`--${name}`).trim();
    const spec = painted(specs[Number(chart.dataset.chart)], "", style);
    const off = hidden.get(chart.closest("figure")) ?? new Set();
    const font = { family: getComputedStyle(document.body).fontFamily, size: 12, color: color("muted") };
    for (const trace of spec.data) {
      trace.visible = !off.has(trace.meta);
      if (trace.colorbar) trace.colorbar.tickfont = font;
    }
    for (const axis of [spec.layout.xaxis, spec.layout.yaxis]) axis.fixedrange = touch;
    Plotly.react(chart, spec.data, {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 8, r: 12, t: 8, b: 8 },
      barmode: "group",
      dragmode: touch ? false : "zoom",
      hoverlabel: { bgcolor: color("raised"), bordercolor: color("rule"), font: { ...font, color: color("ink") } },
      ...spec.layout,
      font,
    }, { responsive: true, displayModeBar: false, displaylogo: false });
    drawn.add(chart);
  };

  // Plotly is part of this page, compressed. Its text is run only where the page's policy holds its hash.
  const unpacked = async () => {
    const bytes = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  };
  const ready = charts.length ? unpacked().catch(() => {
    document.querySelectorAll("#no-charts").forEach((note) => { note.hidden = false; });
    return Promise.reject(new Error("the charts could not be unpacked"));
  }) : Promise.resolve();

  const redraw = () => drawn.forEach(draw);
  const drawRest = () => ready.then(() => charts.filter((chart) => !drawn.has(chart)).forEach(draw), () => {});
  const onScreen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      onScreen.unobserve(target);
      draw(target);
    }
  }, { rootMargin: "800px" });
  ready.then(() => charts.forEach((chart) => onScreen.observe(chart)), () => {});
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("beforeprint", drawRest);

  const toggle = (button) => {
    const figure = button.closest("figure");
    const off = hidden.get(figure) ?? new Set();
    const { key } = button.dataset;
    button.setAttribute("aria-pressed", String(off.has(key)));
    if (!off.delete(key)) off.add(key);
    hidden.set(figure, off);
    [...figure.querySelectorAll(".chart")].filter((chart) => drawn.has(chart)).forEach(draw);
  };

  const sort = (button) => {
    const heading = button.closest("th");
    const body = heading.closest("table").tBodies[0];
    const column = heading.cellIndex;
    const numeric = heading.classList.contains("number");
    const direction = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const value = (row) => {
      const cell = row.cells[column];
      if (!numeric) return cell.textContent;
      const number = { inf: Infinity, "-inf": -Infinity }[cell.dataset.value] ?? Number.parseFloat(cell.dataset.value);
      return number;
    };
    const compare = (a, b) => {
      if (!numeric) return direction * a.localeCompare(b, undefined, { numeric: true });
      if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
      return a === b ? 0 : direction * (a < b ? -1 : 1);
    };
    const rows = [...body.rows].map((row) => [value(row), row]).sort(([a], [b]) => compare(a, b));
    body.append(...rows.map(([, row]) => row));
    heading.parentElement.querySelectorAll("th").forEach((th) => th.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  };

  // A table that is cut says so, until its end is in view.
  const hint = (table) => {
    const right = table.scrollWidth - table.clientWidth - table.scrollLeft > 2;
    const below = table.scrollHeight - table.clientHeight - table.scrollTop > 2;
    table.classList.toggle("cut-right", right);
    table.classList.toggle("cut-below", below);
    const note = table.nextElementSibling;
    note.textContent = right && below ? "Scroll for more columns → and rows ↓" : right ? "Scroll for more columns →" : "Scroll for more rows ↓";
    note.hidden = table.scrollWidth - table.clientWidth <= 2 && table.scrollHeight - table.clientHeight <= 2;
    note.style.visibility = right || below ? "" : "hidden";
  };
  document.querySelectorAll(".scroll").forEach((table) => {
    table.addEventListener("scroll", () => hint(table), { passive: true });
    new ResizeObserver(() => hint(table)).observe(table);
    hint(table);
  });

  document.querySelectorAll(".legend button").forEach((b) => b.addEventListener("click", () => toggle(b)));
  document.querySelectorAll("th button").forEach((b) => b.addEventListener("click", () => sort(b)));
})();
