/* A library of one custom operator, acme.Special: y = 2 x for float32 [n]. Built by tests/e2e/test_custom_operators.py.
   ONNX Runtime's headers are not installed with its wheel; of its table of functions, whose order never changes, these
   places are used. */

#include <stddef.h>
#include <stdint.h>

enum { CREATE_DOMAIN = 26, ADD_OP = 27, ADD_DOMAIN = 28, DATA = 51, DIMENSIONS = 62, DIMENSIONS_COUNT = 61,
       ELEMENTS = 64, TYPE_AND_SHAPE = 65, INPUT = 90, OUTPUT = 91, RELEASE_SHAPE = 99 };

typedef void *(*Function)();
typedef struct Op {
  uint32_t version;
  void *(*create)(const struct Op *, const Function *, const void *);
  const char *(*name)(const struct Op *);
  const char *(*provider)(const struct Op *);
  int (*input_type)(const struct Op *, size_t);
  size_t (*inputs)(const struct Op *);
  int (*output_type)(const struct Op *, size_t);
  size_t (*outputs)(const struct Op *);
  void (*compute)(void *, void *);
  void (*destroy)(void *);
  int (*input_is)(const struct Op *, size_t);
  int (*output_is)(const struct Op *, size_t);
} Op;

static const Function *api;

static void *create(const Op *op, const Function *given, const void *info) { return (void *)op; }
static const char *name(const Op *op) { return "Special"; }
static const char *provider(const Op *op) { return NULL; }
static int type(const Op *op, size_t index) { return 1; }
static size_t one(const Op *op) { return 1; }
static int required(const Op *op, size_t index) { return 0; }
static void destroy(void *kernel) {}

static void compute(void *kernel, void *context) {
  void *input, *output, *shape;
  float *x, *y;
  size_t rank, count;
  int64_t sizes[8];
  api[INPUT](context, (size_t)0, &input);
  api[TYPE_AND_SHAPE](input, &shape);
  api[DIMENSIONS_COUNT](shape, &rank);
  api[DIMENSIONS](shape, sizes, rank);
  api[ELEMENTS](shape, &count);
  api[RELEASE_SHAPE](shape);
  api[OUTPUT](context, (size_t)0, sizes, rank, &output);
  api[DATA](input, (void **)&x);
  api[DATA](output, (void **)&y);
  for (size_t i = 0; i < count; i++) y[i] = 2 * x[i];
}

static const Op special = {8, create, name, provider, type, one, type, one, compute, destroy, required, required};

void *RegisterCustomOps(void *options, const Function *base) {
  void *domain;
  api = (const Function *)((const Function *(*)(uint32_t))base[0])(8);
  api[CREATE_DOMAIN]("acme", &domain);
  api[ADD_OP](domain, &special);
  return api[ADD_DOMAIN](options, domain);
}
