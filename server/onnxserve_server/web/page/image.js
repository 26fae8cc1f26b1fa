// Pictures as tensors: scaled in the browser to what an input takes.

const CHANNELS = [1, 3];
const MAX_BYTES = 5 << 20; // of a tensor: what a request may have, less what base64 adds
const IMAGENET = { mean: [0.485, 0.456, 0.406], deviation: [0.229, 0.224, 0.225] };

// Each turns a sample from 0 to 1 of a channel into what the model wants.
export const RANGES = [
  { name: "0 to 1", value: (sample) => sample },
  { name: "0 to 255", value: (sample) => Math.round(255 * sample) },
  { name: "−1 to 1", value: (sample) => 2 * sample - 1 },
  {
    name: "ImageNet mean and deviation",
    value: (sample, c) => (sample - IMAGENET.mean[c % 3]) / IMAGENET.deviation[c % 3],
  },
];

// Returns { channels, first, height, width } where a shape looks like pictures, null else. Free sizes are strings.
export function layoutOf(shape) {
  if (shape.length !== 4) return null;
  const [, one, two, three] = shape;
  if (CHANNELS.includes(one)) return { channels: one, first: true, height: two, width: three };
  return CHANNELS.includes(three) ? { channels: three, first: false, height: one, width: two } : null;
}

export function takesPictures({ data_type: type, shape }) {
  return (type === "float32" || type === "uint8") && layoutOf(shape) !== null;
}

// Returns { shape, values } of the picture in a file, and draws on the canvas what the model will see.
export async function tensorOf(file, spec, range, inverted, canvas) {
  const layout = layoutOf(spec.shape);
  const picture = await createImageBitmap(file);
  const bytes = spec.data_type === "uint8" ? 1 : 4;
  const shrink = Math.min(1, Math.sqrt(MAX_BYTES / (bytes * layout.channels * picture.width * picture.height)));
  const size = (wanted, own) => (typeof wanted === "number" ? wanted : Math.max(1, Math.floor(own * shrink)));
  const [width, height] = [size(layout.width, picture.width), size(layout.height, picture.height)];
  const pixels = scaled(picture, width, height, canvas);
  picture.close();
  const values = new (spec.data_type === "uint8" ? Uint8Array : Float32Array)(layout.channels * height * width);
  const place = placing(layout, height, width);
  for (let i = 0; i < height * width; i += 1) {
    const [red, green, blue] = pixels.data.subarray(4 * i, 4 * i + 3);
    const samples = layout.channels === 3 ? [red, green, blue] : [0.299 * red + 0.587 * green + 0.114 * blue];
    samples.forEach((sample, c) => {
      const drawn = inverted ? 255 - sample : sample;
      values[place(i, c)] = range.value(drawn / 255, c);
      pixels.data[4 * i + c] = drawn;
      if (layout.channels === 1) pixels.data[4 * i + 1] = pixels.data[4 * i + 2] = drawn;
    });
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  const sizes = layout.first ? [layout.channels, height, width] : [height, width, layout.channels];
  return { shape: [1, ...sizes], values };
}

// Draws values as a picture; the least is dark and the greatest bright, unless all are colours from 0 to 255.
export function drawValues(values, layout, canvas) {
  const { channels, height, width } = layout;
  [canvas.width, canvas.height] = [width, height];
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
  const [from, to] = values instanceof Uint8Array ? [0, 255] : [low, high > low ? high : low + 1];
  const pixels = new ImageData(width, height);
  const place = placing(layout, height, width);
  for (let i = 0; i < height * width; i += 1) {
    for (let c = 0; c < 3; c += 1) pixels.data[4 * i + c] = (255 * (values[place(i, c % channels)] - from)) / (to - from);
    pixels.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return [low, high];
}

const placing = ({ first, channels }, height, width) => (first ? (i, c) => c * height * width + i : (i, c) => i * channels + c);

function scaled(picture, width, height, canvas) {
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff"; // what shows through a transparent picture
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}
