// Shows the step and the values of the curves below the pointer. It reads only the page that it is in.
"use strict";
const COLOURS = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"];
const SVG = "http://www.w3.org/2000/svg";

// The index of the value in a rising list that is nearest to `wanted`.
function nearest(list, wanted) {
  let low = 0, high = list.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (list[middle] < wanted) low = middle; else high = middle;
  }
  return Math.abs(list[low] - wanted) <= Math.abs(list[high] - wanted) ? low : high;
}

function add(parent, name, text) {
  const element = document.createElement(name);
  element.textContent = text;
  parent.append(element);
  return element;
}

for (const figure of document.querySelectorAll("figure.curves")) {
  const svg = figure.querySelector("svg"), box = figure.querySelector(".pointed");
  const panels = JSON.parse(figure.querySelector("script").textContent);
  const marks = document.createElementNS(SVG, "g");
  svg.append(marks);

  const hide = () => { box.hidden = true; marks.replaceChildren(); };
  const mark = (name, attributes) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    marks.append(element);
  };

  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("pointermove", (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const panel = panels.find((one) => at.x >= one.left && at.x <= one.right && at.y >= one.top && at.y <= one.bottom);
    const curves = panel ? panel.curves.filter((one) => one.steps.length) : [];
    hide();
    if (!curves.length) return;
    const [first, last] = panel.steps;
    const wanted = first + (at.x - panel.left) / (panel.right - panel.left) * (last - first);
    const step = curves[0].steps[nearest(curves[0].steps, wanted)];
    const across = (value) => panel.left + (value - first) / (last - first) * (panel.right - panel.left);
    const scale = panel.logarithmic ? Math.log : (value) => value;
    const [low, high] = panel.values.map(scale);
    const down = (value) => panel.bottom - (scale(value) - low) / (high - low) * (panel.bottom - panel.top);
    mark("line", {x1: across(step), x2: across(step), y1: panel.top, y2: panel.bottom, stroke: "#888", "stroke-width": 0.6});
    box.replaceChildren();
    add(box, "b", `${panel.title}, step ${step.toLocaleString("en")}`);
    for (const curve of curves) {
      const place = nearest(curve.steps, step), colour = COLOURS[Number(curve.colour.slice(1))];
      const other = curve.steps[place] === step ? "" : ` (step ${curve.steps[place].toLocaleString("en")})`;
      add(box, "div", `${curve.name}: ${curve.values[place]}${other}`).style.color = colour;
      mark("circle", {cx: across(curve.steps[place]), cy: down(curve.values[place]), r: 2.5, fill: colour});
    }
    box.hidden = false;
    const frame = figure.getBoundingClientRect();
    const left = event.clientX - frame.left + 14;
    box.style.left = `${left + box.offsetWidth > frame.width ? left - box.offsetWidth - 28 : left}px`;
    box.style.top = `${event.clientY - frame.top + 14}px`;
  });
}
