// The picture on the page: given, chosen, or drawn with a finger; read as pixels for a model.

/** A picture on `canvas`; `changed` is called whenever it is another one. */
export function picture(canvas, changed) {
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  let last = null;

  function clear() {
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, canvas.width, canvas.height);
  }

  function place(event) {
    const box = canvas.getBoundingClientRect();
    const scale = canvas.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  }

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = place(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (last === null) return;
    const next = place(event);
    Object.assign(pen, { strokeStyle: "#fff", lineWidth: canvas.width / 12, lineCap: "round" });
    pen.beginPath();
    pen.moveTo(...last);
    pen.lineTo(...next);
    pen.stroke();
    last = next;
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, () => {
      if (last !== null) changed();
      last = null;
    });
  }
  clear();

  return {
    clear: () => {
      clear();
      changed();
    },
    /** Shows the middle square of an image. */
    show: (image) => {
      const side = Math.min(image.width, image.height);
      const [left, top] = [(image.width - side) / 2, (image.height - side) / 2];
      clear();
      pen.imageSmoothingEnabled = side > canvas.width;
      pen.drawImage(image, left, top, side, side, 0, 0, canvas.width, canvas.height);
      changed();
    },
    pixels: (channels, side) => pixels(canvas, channels, side),
  };
}

/** Channel after channel, from 0 to 1; of one channel the mean of red, green and blue. */
function pixels(canvas, channels, side) {
  const small = new OffscreenCanvas(side, side).getContext("2d");
  small.imageSmoothingQuality = "high";
  small.drawImage(canvas, 0, 0, side, side);
  const { data } = small.getImageData(0, 0, side, side);
  const found = new Float32Array(channels * side * side);
  for (let i = 0; i < side * side; i++) {
    const [red, green, blue] = data.subarray(4 * i, 4 * i + 3);
    if (channels === 1) found[i] = (red + green + blue) / 3 / 255;
    else [red, green, blue].forEach((value, c) => (found[c * side * side + i] = value / 255));
  }
  return found;
}
