/* Loads SavedModels and runs their endpoints through TensorFlow's C API alone.

   Reads a plan from standard input, one instruction a line, words separated by spaces:

       model DIR                                 load the SavedModel in DIR
       verbatim DIR                              the same, and run its graphs as they stand
       input OPERATION INDEX TYPE FILE RANK DIMENSION ...
                                                 feed a tensor from the bytes of FILE
       output OPERATION INDEX FILE               fetch a tensor into FILE
       run                                       run, write the outputs, forget inputs and outputs

   TYPE is a number of TF_DataType. FILE of a tensor of strings holds, for each of them, its size
   in 8 bytes and then its bytes; only outputs may be such tensors. Exit code 1 and one line on
   standard error if anything fails. */

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"
#include "tensorflow/c/tf_tstring.h"

#define MOST 16     /* inputs or outputs of an endpoint, and dimensions of a tensor */
#define LENGTH 4096 /* characters of a word */
#define WORD "%4095s"

static TF_Graph *graph;
static TF_Session *session;
static TF_Status *status;

static void fail(const char *what, const char *why) {
  fprintf(stderr, "%s: %s\n", what, why);
  exit(1);
}

static void check(const char *what) {
  if (TF_GetCode(status) != TF_OK) fail(what, TF_Message(status));
}

static void unload(void) {
  if (session == NULL) return;
  TF_CloseSession(session, status);
  check("close");
  TF_DeleteSession(session, status);
  check("delete");
  TF_DeleteGraph(graph);
  session = NULL;
}

/* A ConfigProto with graph_options.rewrite_options.disable_meta_optimizer. */
static const unsigned char no_rewriting[] = {0x52, 5, 0x52, 3, 0x98, 1, 1};

static void load(const char *folder, int verbatim) {
  const char *tags[] = {"serve"};
  TF_SessionOptions *options = TF_NewSessionOptions();
  unload();
  if (verbatim) TF_SetConfig(options, no_rewriting, sizeof no_rewriting, status);
  check("options");
  graph = TF_NewGraph();
  session = TF_LoadSessionFromSavedModel(options, NULL, folder, tags, 1, graph, NULL, status);
  check(folder);
  TF_DeleteSessionOptions(options);
}

static TF_Output find(const char *name, int index) {
  if (session == NULL) fail(name, "no model is loaded");
  TF_Output found = {TF_GraphOperationByName(graph, name), index};
  if (found.oper == NULL) fail(name, "no such operation");
  return found;
}

static TF_Tensor *read_tensor(TF_DataType type, const char *path, const int64_t *shape, int rank) {
  size_t size = TF_DataTypeSize(type);
  if (size == 0) fail(path, "is of a type without a fixed size, such as strings");
  for (int i = 0; i < rank; i++) {
    if (shape[i] < 0) fail(path, "has a negative dimension");
    if (size > 0 && (uint64_t)shape[i] > INT64_MAX / size) fail(path, "has too large a shape");
    size *= (size_t)shape[i];
  }
  TF_Tensor *tensor = TF_AllocateTensor(type, shape, rank, size);
  if (tensor == NULL || (size > 0 && TF_TensorData(tensor) == NULL))
    fail(path, "does not fit into memory");
  FILE *file = fopen(path, "rb");
  if (file == NULL) fail(path, "cannot be read");
  if (fread(TF_TensorData(tensor), 1, size, file) != size) fail(path, "is too short");
  if (fgetc(file) != EOF) fail(path, "is too long");
  fclose(file);
  return tensor;
}

static void put(const void *bytes, size_t size, FILE *file, const char *path) {
  if (fwrite(bytes, 1, size, file) != size) fail(path, "cannot be written");
}

static void write_tensor(const TF_Tensor *tensor, const char *path) {
  FILE *file = fopen(path, "wb");
  if (file == NULL) fail(path, "cannot be written");
  if (TF_TensorType(tensor) == TF_STRING) {
    const TF_TString *strings = TF_TensorData(tensor);
    for (int64_t i = 0; i < TF_TensorElementCount(tensor); i++) {
      uint64_t size = TF_StringGetSize(&strings[i]);
      put(&size, sizeof size, file, path);
      put(TF_StringGetDataPointer(&strings[i]), size, file, path);
    }
  } else {
    put(TF_TensorData(tensor), TF_TensorByteSize(tensor), file, path);
  }
  if (fclose(file) != 0) fail(path, "cannot be written");
}

int main(void) {
  TF_Output inputs[MOST], outputs[MOST];
  TF_Tensor *given[MOST], *fetched[MOST];
  char paths[MOST][LENGTH], word[LENGTH], name[LENGTH], path[LENGTH];
  int num_inputs = 0, num_outputs = 0, index, type, rank;
  status = TF_NewStatus();
  while (scanf(WORD, word) == 1) {
    int verbatim = strcmp(word, "verbatim") == 0;
    if ((verbatim || strcmp(word, "model") == 0) && scanf(WORD, path) == 1) {
      load(path, verbatim);
    } else if (strcmp(word, "input") == 0 && num_inputs < MOST &&
               scanf(WORD " %d %d " WORD " %d", name, &index, &type, path, &rank) == 5 &&
               0 <= rank && rank <= MOST) {
      int64_t shape[MOST];
      for (int i = 0; i < rank; i++)
        if (scanf("%" SCNd64, &shape[i]) != 1) fail(name, "lacks a dimension");
      inputs[num_inputs] = find(name, index);
      given[num_inputs++] = read_tensor((TF_DataType)type, path, shape, rank);
    } else if (strcmp(word, "output") == 0 && num_outputs < MOST &&
               scanf(WORD " %d " WORD, name, &index, paths[num_outputs]) == 3) {
      outputs[num_outputs++] = find(name, index);
    } else if (strcmp(word, "run") == 0 && session != NULL) {
      TF_SessionRun(session, NULL, inputs, given, num_inputs, outputs, fetched, num_outputs, NULL, 0,
                    NULL, status);
      check("run");
      for (int i = 0; i < num_inputs; i++) TF_DeleteTensor(given[i]);
      for (int i = 0; i < num_outputs; i++) {
        write_tensor(fetched[i], paths[i]);
        TF_DeleteTensor(fetched[i]);
      }
      num_inputs = num_outputs = 0;
    } else {
      fail(word, "is no instruction, or lacks a part");
    }
  }
  unload();
  TF_DeleteStatus(status);
  return 0;
}
