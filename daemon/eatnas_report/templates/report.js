const figures = [...document.querySelectorAll(".plot")];
for (const figure of figures) {
  const plot = JSON.parse(document.getElementById(figure.id + "-data").textContent);
  // Plotly forgets the height of a figure when the window changes its size, and then asks the element.
  figure.style.height = `${plot.layout.height}px`;
  // Few buttons, because a touch screen always shows them, next to the legend.
  const buttons = [["toImage", "zoom2d", "pan2d", "resetScale2d"]];
  Plotly.newPlot(figure, plot.data, plot.layout, {displaylogo: false, responsive: true, modeBarButtons: buttons});
}
// Paper is narrower than most windows, and Plotly does not resize a figure for printing.
addEventListener("beforeprint", () => {
  for (const figure of figures) Plotly.relayout(figure, {width: 660});
});
addEventListener("afterprint", () => {
  for (const figure of figures) Plotly.relayout(figure, {width: null, autosize: true});
});
