/* Expunge's C interface: norms of per-example gradients, computed without forming any gradient. C99 and C++.
 *
 * The kernels are reached through a table of function pointers that the Python package carries in a capsule, so that
 * nothing is linked: include Python.h before this header, compile with the folder that expunge.get_include() gives, and
 * take the table once, holding the GIL:
 *
 *     const expunge_api *api = expunge_import();   // NULL, with a Python exception set, if versions do not fit
 *
 * Without Python.h the types alone are declared, for code that is handed the table. What a kernel computes is said by
 * the Python function of the same name in expunge.grad_norms. Functions of the table need no GIL, may be called from
 * any thread, keep no pointer, return a status, and write nothing unless they return EXPUNGE_OK. They check every
 * number, index and label they are given; that a pointer leads to as many elements as the sizes say is up to the
 * caller. Results are the same bits for every number of threads, and for strided and plain arrays.
 */
#ifndef EXPUNGE_H
#define EXPUNGE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised when a function or a structure changes; functions added at the end of the table leave it as it is. */
#define EXPUNGE_API_VERSION 1
#define EXPUNGE_CAPSULE_MODULE "expunge._core"
#define EXPUNGE_CAPSULE_ATTRIBUTE "_c_api"
#define EXPUNGE_CAPSULE_NAME "expunge._core._c_api"

/* Statuses. What was wrong is in last_error(). */
#define EXPUNGE_OK 0
#define EXPUNGE_INVALID_ARGUMENT 1
#define EXPUNGE_OUT_OF_MEMORY 2

/* Nothing is 0 here, so that what was forgotten is rejected. */
#define EXPUNGE_FLOAT32 1
#define EXPUNGE_FLOAT64 2

#define EXPUNGE_PAD_ZEROS 1
#define EXPUNGE_PAD_CIRCULAR 2
#define EXPUNGE_PAD_REFLECT 3
#define EXPUNGE_PAD_REPLICATE 4

#define EXPUNGE_LAYER_NORM 1
#define EXPUNGE_RMS_NORM 2
#define EXPUNGE_GROUP_NORM 3

#define EXPUNGE_SOFTMAX 1
#define EXPUNGE_LOGISTIC 2
#define EXPUNGE_SQUARED 3

/* An input. strides: one per axis, in elements, of any sign; NULL says C order without gaps. An array that is not C
 * order without gaps is copied a few examples at a time. */
typedef struct {
  const void *data;
  const int64_t *strides;
} expunge_array;

/* In every structure: size is sizeof of the structure; dtype is that of all real inputs; threads is 0 for every core;
 * squared asks for squared norms; out and bias_out take one float64 per example. Where there is a bias_out, out has
 * the norms of the weight and bias_out those of the bias, which must count; where it is NULL, out has both together.
 * Unused and reserved members are 0. */

/* A linear layer: norms of A_i^T G_i, and of the sum of G_i over positions if bias. */
typedef struct {
  size_t size;
  int32_t dtype, threads, bias, squared;
  int64_t examples, positions, d_in, d_out;
  expunge_array activations;  /* (examples, positions, d_in) */
  expunge_array output_grads; /* (examples, positions, d_out) */
  double *out, *bias_out;
} expunge_linear_grad_norms;

/* Inner products of the gradients of two uses of one weight. */
typedef struct {
  size_t size;
  int32_t dtype, threads;
  int64_t examples, positions_1, positions_2, d_in, d_out;
  expunge_array activations_1, output_grads_1; /* (examples, positions_1, d_in) and (..., d_out) */
  expunge_array activations_2, output_grads_2; /* (examples, positions_2, d_in) and (..., d_out) */
  double *out;
} expunge_linear_grad_dots;

/* A convolution along one to three spatial axes; of each triple the first `axes` entries count. */
typedef struct {
  size_t size;
  int32_t dtype, threads, bias, squared, axes, padding_mode;
  int64_t examples, channels, out_channels, groups;
  int64_t length[3], output_length[3], kernel_size[3], stride[3], dilation[3], padding_before[3], padding_after[3];
  expunge_array activations;  /* (examples, channels, length...) */
  expunge_array output_grads; /* (examples, out_channels, output_length...) */
  double *out, *bias_out;
} expunge_conv_grad_norms;

/* A table of rows that are looked up; a token may repeat. padding_token takes no gradient; -1 for none. */
typedef struct {
  size_t size;
  int32_t dtype, threads, squared, reserved;
  int64_t examples, n_tokens, width, padding_token;
  expunge_array tokens;       /* int64, (examples, n_tokens), none negative */
  expunge_array output_grads; /* (examples, n_tokens, width) */
  double *out;
} expunge_embedding_grad_norms;

/* Inner products of the gradients of a table of `rows` rows that is looked up, and used in a linear map. */
typedef struct {
  size_t size;
  int32_t dtype, threads;
  int64_t examples, n_tokens, positions, rows, width, padding_token;
  expunge_array tokens;          /* int64, (examples, n_tokens), within [0, rows) */
  expunge_array embedding_grads; /* (examples, n_tokens, width) */
  expunge_array row_factors;     /* (examples, positions, rows) */
  expunge_array column_factors;  /* (examples, positions, width) */
  double *out;
} expunge_embedding_linear_grad_dots;

/* Weight and bias of a normalising layer. Layer and RMS norm: arrays (examples, positions, width); group norm, with
 * num_groups: (examples, width, positions). With normalized, activations are what the weight multiplies. */
typedef struct {
  size_t size;
  int32_t dtype, threads, weight, bias, squared, kind, normalized, reserved;
  int64_t examples, positions, width, num_groups;
  double eps;
  expunge_array activations, output_grads;
  double *out, *bias_out;
} expunge_norm_layer_grad_norms;

/* A linear model at one or many checkpoints. With checkpoint_weights, `checkpoints` numbers, out has one weighted sum
 * of squared norms per record; without, it is (examples, checkpoints). */
typedef struct {
  size_t size;
  int32_t dtype, threads, squared, loss;
  int64_t examples, d, classes, checkpoints;
  double alpha;
  expunge_array x;       /* (examples, d) */
  expunge_array weights; /* (checkpoints, d, classes) */
  expunge_array y;       /* softmax, logistic: int64 (examples,); squared: reals (examples, classes) */
  const double *checkpoint_weights;
  double *out;
} expunge_probe_grad_norms;

typedef struct {
  uint32_t version; /* EXPUNGE_API_VERSION of the kernels */
  uint32_t size;    /* sizeof of the table the kernels have */
  const char *(*last_error)(void); /* of the calling thread; "" if its last call went well */
  int (*default_threads)(void);
  int (*linear_grad_norms)(const expunge_linear_grad_norms *);
  int (*linear_grad_dots)(const expunge_linear_grad_dots *);
  int (*conv_grad_norms)(const expunge_conv_grad_norms *);
  int (*embedding_grad_norms)(const expunge_embedding_grad_norms *);
  int (*embedding_linear_grad_dots)(const expunge_embedding_linear_grad_dots *);
  int (*norm_layer_grad_norms)(const expunge_norm_layer_grad_norms *);
  int (*probe_grad_norms)(const expunge_probe_grad_norms *);
} expunge_api;

/* Whether code compiled with this header may use the table. */
static inline int expunge_compatible(const expunge_api *api) {
  return api != NULL && api->version == EXPUNGE_API_VERSION && api->size >= sizeof(expunge_api);
}

#ifdef Py_PYTHON_H
/* Return the table, or NULL with ImportError set. Needs the GIL. */
static inline const expunge_api *expunge_import(void) {
  const expunge_api *api;
  PyObject *capsule, *module = PyImport_ImportModule(EXPUNGE_CAPSULE_MODULE);
  if (module == NULL) return NULL;
  capsule = PyObject_GetAttrString(module, EXPUNGE_CAPSULE_ATTRIBUTE);
  Py_DECREF(module);
  if (capsule == NULL) return NULL;
  api = (const expunge_api *)PyCapsule_GetPointer(capsule, EXPUNGE_CAPSULE_NAME);
  Py_DECREF(capsule); /* the module keeps the table for good */
  if (api == NULL) return NULL;
  if (!expunge_compatible(api)) {
    PyErr_Format(PyExc_ImportError,
                 "compiled for version %d of expunge.h with a table of %zu bytes, but the installed expunge has "
                 "version %u with %u bytes: compile again with the header in expunge.get_include()",
                 EXPUNGE_API_VERSION, sizeof(expunge_api), (unsigned)api->version, (unsigned)api->size);
    return NULL;
  }
  return api;
}
#endif

#ifdef __cplusplus
}
#endif

#endif /* EXPUNGE_H */
